// Splits linear layers over threads: direct dot products for few rows, sgemm over converted weight
// tiles for many.
#include <cblas.h>

#include <algorithm>
#include <cstring>

#include "cpu/kernels.h"

namespace kv8::cpu {
namespace {

/// Output features of a tile: wide enough for sgemm to run at nearly its full rate, narrow enough
/// to share small layers among threads.
constexpr std::int64_t kTileFeatures = 96;
/// Threads share a direct product by whole cache lines of output.
constexpr std::int64_t kLineFloats = 16;

/// What the product is added to: residual, bias, both or nothing. Returns sgemm's beta.
float prepare_output(const LinearParams& params, std::int64_t out, std::int64_t width) {
  const bool in_place = params.residual == params.out;
  if (params.residual != nullptr && !in_place) {
    for (std::int64_t row = 0; row < params.rows; ++row) {
      const std::int64_t offset = row * params.out_features + out;
      std::memcpy(params.out + offset, params.residual + offset,
                  static_cast<std::size_t>(width) * sizeof(float));
    }
  }
  if (params.bias.data != nullptr) {
    float bias[kTileFeatures];
    weights_to_float(params.bias, out, width, bias);
    for (std::int64_t row = 0; row < params.rows; ++row) {
      float* to = params.out + row * params.out_features + out;
      if (params.residual != nullptr) {
        for (std::int64_t i = 0; i < width; ++i) to[i] += bias[i];
      } else {
        std::copy_n(bias, width, to);
      }
    }
  }
  return params.residual != nullptr || params.bias.data != nullptr ? 1.0f : 0.0f;
}

void linear_tile(const LinearParams& params, std::int64_t out, std::int64_t width, float* tile) {
  const float* weights = nullptr;
  if (params.weight.dtype == DType::kF32) {
    weights = static_cast<const float*>(params.weight.data) + out * params.in;
  } else {
    weights_to_float(params.weight, out * params.in, width * params.in, tile);
    weights = tile;
  }
  const float beta = prepare_output(params, out, width);
  const auto in = static_cast<blasint>(params.in);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(params.rows),
              static_cast<blasint>(width), in, 1.0f, params.x, in, weights, in, beta,
              params.out + out, static_cast<blasint>(params.out_features));
}

void linear_sgemm(Workspace& workspace, const LinearParams& params) {
  openblas_set_num_threads(1);  // the threads are ours, each with tiles of its own
  const std::int64_t tiles = (params.out_features + kTileFeatures - 1) / kTileFeatures;
  const auto tile_floats = static_cast<std::size_t>(kTileFeatures * params.in);
  workspace.pool().parallel_tasks(tiles, [&](std::int64_t tile, int worker) {
    const std::int64_t out = tile * kTileFeatures;
    linear_tile(params, out, std::min(kTileFeatures, params.out_features - out),
                workspace.floats(worker, tile_floats));
  });
}

}  // namespace

void linear(Workspace& workspace, const LinearParams& params) {
  if (params.rows > kMaxDirectRows) return linear_sgemm(workspace, params);
  workspace.pool().parallel_streams(
      params.out_features, kLineFloats,
      [&](std::int64_t begin, std::int64_t end, int) { linear_direct(params, begin, end); });
}

}  // namespace kv8::cpu
