#include "cuda/dense/gemv/launch.h"

#include <cuda_runtime_api.h>

#include "cuda/dense/gemv/entry.h"

namespace kv8 {
namespace {

/// With more rows every block normalising all of them costs more than a kernel of its own.
constexpr int kMaxFusedNormRows = 4;

Status check(const GemvArgs& a) {
  if (a.x == nullptr || a.weight == nullptr || a.out == nullptr) {
    return usage_error("gemv: x, weight and out must be given");
  }
  for (const void* p : {a.x, a.weight, a.bias, static_cast<const void*>(a.residual),
                        static_cast<const void*>(a.out), a.norm_weight}) {
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) {
      return usage_error("gemv: pointers must be aligned to 16 bytes");
    }
  }
  if (a.rows < 1 || a.rows > kGemvMaxRows || a.in < 1 || a.out_features < 1) {
    return usage_error("gemv: {} rows (1 to {}), {} inputs, {} outputs", a.rows, kGemvMaxRows, a.in,
                       a.out_features);
  }
  if (a.in % 8 != 0) return unsupported("gemv: {} inputs; multiples of 8 are supported", a.in);
  if (a.in > 1 << 24 || a.out_features > 1 << 24) {
    return capacity_error("gemv: {} inputs and {} outputs; up to {} are supported", a.in,
                          a.out_features, 1 << 24);
  }
  if (a.residual != nullptr && !a.f32_out) {
    return usage_error("gemv: a residual needs FP32 output");
  }
  if (a.swiglu && (a.bias != nullptr || a.residual != nullptr)) {
    return usage_error("gemv: SwiGLU goes without bias and residual");
  }
  return {};
}

Status status_of(cudaError_t code) {
  if (code == cudaSuccess) return {};
  return unsupported("gemv: {}", cudaGetErrorString(code));
}

Result<gemv::Device> current_device() {
  int device = 0;
  gemv::Device traits{};
  KV8_TRY(status_of(cudaGetDevice(&device)));
  KV8_TRY(status_of(
      cudaDeviceGetAttribute(&traits.multiprocessors, cudaDevAttrMultiProcessorCount, device)));
  KV8_TRY(status_of(cudaDeviceGetAttribute(&traits.shared_bytes,
                                           cudaDevAttrMaxSharedMemoryPerBlockOptin, device)));
  return traits;
}

}  // namespace

Result<int> gemv_max_norm_columns(int rows) {
  if (rows < 1 || rows > kGemvMaxRows) {
    return usage_error("gemv: {} rows; 1 to {} are supported", rows, kGemvMaxRows);
  }
  if (rows > kMaxFusedNormRows) return 0;
  const gemv::Device device = KV8_TRY(current_device());
  GemvArgs args;
  args.norm_weight = &args;  // any; FP32 weights take more
  args.norm_weight_f32 = true;
  args.rows = rows;
  for (args.in = device.shared_bytes / 64 * 64; args.in > 0; args.in -= 64) {
    if (gemv::norm_fits(args, device)) break;
  }
  return args.in;
}

Status launch_gemv(const GemvArgs& args, CUstream_st* stream) {
  KV8_TRY(check(args));
  const gemv::Device device = KV8_TRY(current_device());
  if (args.norm_weight != nullptr && !gemv::norm_fits(args, device)) {
    return capacity_error("gemv: {} rows of {} do not fit into shared memory for a fused norm",
                          args.rows, args.in);
  }
  return status_of(gemv::start_gemv(args, device, stream));
}

}  // namespace kv8
