#include "cuda/kv_write/launch.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>

#include "cuda/kv_write/entry.h"
#include "ops/kv_layout.h"

namespace kv8 {
namespace {

constexpr int kWarpsPerBlock = kv_write::kThreads / 32;
/// Warps with rows that a multiprocessor is given at least; it holds 24 at once, some of them for
/// V.
constexpr int kResidentWarps = 16;
/// From this many rows a sequence on, or where sequences differ, V goes by transposed tiles instead
/// of scattered elements.
constexpr int kTileRows = 8;

Status check_pointers(const KvWriteArgs& a) {
  if (a.qkv == nullptr || a.q_out == nullptr || a.k_pool == nullptr || a.v_pool == nullptr ||
      a.page_table == nullptr || a.cu_rows == nullptr || a.kv_lens == nullptr || a.cos == nullptr ||
      a.sin == nullptr) {
    return usage_error(
        "KV write: qkv, q_out, pools, page_table, cu_rows, kv_lens, cos and sin must "
        "be given");
  }
  if (!(a.q_limit > 0.0f) || !(a.k_limit > 0.0f)) {
    return usage_error("KV write: limits of codes {} and {} must be positive", a.q_limit,
                       a.k_limit);
  }
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  for (const void* p :
       {a.qkv, static_cast<const void*>(a.q_out), static_cast<const void*>(a.k_pool),
        static_cast<const void*>(a.v_pool), static_cast<const void*>(a.cos),
        static_cast<const void*>(a.sin), a.q_norm, a.k_norm}) {
    if (!aligned(p)) return usage_error("KV write: pointers must be aligned to 16 bytes");
  }
  return {};
}

Status check_sizes(const KvWriteArgs& a) {
  if (a.batch < 1 || a.rows < 1 || a.max_rows_per_sequence < 1 || a.num_heads < 1 ||
      a.num_kv_heads < 1 || a.max_pages < 1) {
    return usage_error(
        "KV write: batch {}, rows {}, rows of a sequence {}, heads {}, KV heads {} and "
        "page table width {} must be positive",
        a.batch, a.rows, a.max_rows_per_sequence, a.num_heads, a.num_kv_heads, a.max_pages);
  }
  if (a.num_heads % a.num_kv_heads != 0) {
    return usage_error("KV write: {} query heads do not divide into {} KV heads", a.num_heads,
                       a.num_kv_heads);
  }
  if (a.head_dim != 64 && a.head_dim != 128) {
    return unsupported("KV write: head_dim {}; 64 and 128 are supported", a.head_dim);
  }
  const std::int64_t heads = std::int64_t{a.num_heads} + 2 * std::int64_t{a.num_kv_heads};
  if (heads > 65536 || std::int64_t{a.rows} * heads > INT32_MAX / 4) {
    return capacity_error("KV write: {} rows of {} heads are too many for one launch", a.rows,
                          heads);
  }
  return {};
}

Status check_scales(const KvWriteArgs& a) {
  if (a.fp8_q && !a.fp8_cache) {
    return unsupported("KV write: FP8 queries beside an FP16 cache");
  }
  if (!a.fp8_cache || a.head_scales != nullptr) return {};
  for (int kind = a.fp8_q ? 0 : 1; kind < 3; ++kind) {
    if (!(a.scales[kind].scale > 0.0f)) {
      return usage_error("KV write: the scale of {} must be given", "QKV"[kind]);
    }
  }
  return {};
}

kv_write::Grid grid_of(const KvWriteArgs& a, int multiprocessors) {
  kv_write::Grid grid{};
  const bool uniform = std::int64_t{a.batch} * a.max_rows_per_sequence == a.rows;
  grid.uniform_rows = uniform ? a.max_rows_per_sequence : 0;
  grid.multiprocessors = multiprocessors;
  if (uniform && a.max_rows_per_sequence < kTileRows) return grid;
  grid.tile_slots = std::min(a.rows, a.rows / kPageTokens + 2 * a.batch);
  const int turns = ((a.num_heads + a.num_kv_heads) * a.head_dim / 16 + 31) / 32;
  // As many warps as the device holds at once beside those for V, if the rows have them.
  const int wanted = std::max(multiprocessors * kResidentWarps / a.rows, 1);
  grid.row_turns = (turns + wanted - 1) / wanted;
  grid.row_warps = (turns + grid.row_turns - 1) / grid.row_turns;
  grid.row_blocks = (a.rows * grid.row_warps + kWarpsPerBlock - 1) / kWarpsPerBlock;
  return grid;
}

}  // namespace

RopeAngleTable make_rope_angles(const RopeTable& table, int positions) {
  const std::size_t half = table.inv_freq.size();
  RopeAngleTable angles;
  angles.cos.resize(half * static_cast<std::size_t>(positions));
  angles.sin.resize(angles.cos.size());
  for (std::size_t at = 0; at < angles.cos.size(); ++at) {
    const float angle = static_cast<float>(at / half) * table.inv_freq[at % half];
    angles.cos[at] =
        static_cast<float>(std::cos(static_cast<double>(angle))) * table.attention_factor;
    angles.sin[at] =
        static_cast<float>(std::sin(static_cast<double>(angle))) * table.attention_factor;
  }
  return angles;
}

KvScale make_kv_scale(float scale) {
  const float inverse = 1.0f / scale;
  bool suffices = scale > 0x1p-60f && scale < 0x1p60f;
  for (int odd = 1; odd < 32 && suffices; odd += 2) {
    const double midpoint = static_cast<double>(odd) * static_cast<double>(scale);
    int exponent = 0;
    std::frexp(midpoint, &exponent);
    const double unit = std::ldexp(1.0, exponent - 11);
    for (const double units : {std::floor(midpoint / unit), std::ceil(midpoint / unit)}) {
      const float x = static_cast<float>(units * unit), m = static_cast<float>(odd);
      const auto side = [m](float quotient) { return (quotient > m) - (quotient < m); };
      suffices = suffices && side(x * inverse) == side(x / scale);
    }
  }
  return {scale, suffices ? inverse : -inverse};
}

Status launch_kv_write(const KvWriteArgs& args, CUstream_st* stream) {
  KV8_TRY(check_pointers(args));
  KV8_TRY(check_scales(args));
  KV8_TRY(check_sizes(args));
  int device = 0, multiprocessors = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess) {
    code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (code == cudaSuccess) {
    code = kv_write::start_kv_write(args, grid_of(args, multiprocessors), stream);
  }
  if (code != cudaSuccess) return unsupported("KV write: {}", cudaGetErrorString(code));
  return {};
}

}  // namespace kv8
