#include "cuda/attention/portable/prefill/launch.h"

#include <cuda_runtime_api.h>

#include <array>

#include "cuda/attention/prefill/check.h"
#include "cuda/attention/prefill/common_params.h"

namespace kv8::portable {
namespace {

constexpr std::array kKernels = {
    PrefillKernel{"e4m3_d64", Products::kE4m3, 64, e4m3_d64},
    PrefillKernel{"e4m3_d128", Products::kE4m3, 128, e4m3_d128},
    PrefillKernel{"widened_d64", Products::kWidened, 64, widened_d64},
    PrefillKernel{"widened_d128", Products::kWidened, 128, widened_d128},
    PrefillKernel{"f16_d64", Products::kF16, 64, f16_d64},
    PrefillKernel{"f16_d128", Products::kF16, 128, f16_d128},
};

/// Sequences lie along a dimension of the grid, row tiles along another.
constexpr int kMaxGrid = 65535;

Status cuda_ok(cudaError_t code) {
  if (code == cudaSuccess) return {};
  return unsupported("prefill attention: {}", cudaGetErrorString(code));
}

}  // namespace

std::span<const PrefillKernel> prefill_kernels() { return kKernels; }

Result<const PrefillKernel*> select_kernel(KvType kv_type, KvType q_type, int head_dim, int major,
                                           int minor) {
  const bool e4m3 = q_type == KvType::kE4m3 && ((major == 8 && minor == 9) || major == 12);
  const Products products = kv_type == KvType::kF16 ? Products::kF16
                            : e4m3                  ? Products::kE4m3
                                                    : Products::kWidened;
  for (const PrefillKernel& kernel : kKernels) {
    if (kernel.products == products && kernel.head_dim == head_dim) return &kernel;
  }
  return unsupported("prefill attention: no kernel with head_dim {}; there are 64 and 128",
                     head_dim);
}

Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args) {
  int device = 0, major = 0, minor = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device)));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device)));
  const PrefillKernel* kernel =
      KV8_TRY(select_kernel(args.kv_type, args.q_type, args.head_dim, major, minor));
  return prepare_prefill(args, *kernel);
}

Result<PreparedPrefill> prepare_prefill(const PrefillArgs& a, const PrefillKernel& kernel) {
  KV8_TRY(prefill::check(a));
  KV8_CHECK(kernel.products != Products::kE4m3 || a.q_type == KvType::kE4m3,
            "kernel {} takes no FP16 queries", kernel.name);
  PreparedPrefill prepared;
  prepared.kernel_ = &kernel;
  prepared.entry_ = kernel.entry();
  const PrefillEntry& entry = prepared.entry_;
  const int row_tiles = (a.max_q_len + entry.rows - 1) / entry.rows;
  if (a.batch > kMaxGrid || row_tiles > kMaxGrid) {
    return capacity_error(
        "prefill attention: {} sequences of up to {} new tokens are too many for one launch",
        a.batch, a.max_q_len);
  }
  PrefillParams& p = prepared.params_ = {prefill::common_params(a)};
  p.q = static_cast<const std::uint8_t*>(a.q);
  p.k = static_cast<const std::uint8_t*>(a.k_pool);
  p.v = static_cast<const std::uint8_t*>(a.v_pool);
  p.q_is_f16 = a.q_type == KvType::kF16;
  prepared.grid_[0] = a.num_heads;
  prepared.grid_[1] = a.batch;
  prepared.grid_[2] = row_tiles;
  KV8_TRY(cuda_ok(cudaFuncSetAttribute(entry.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       entry.shared_bytes)));
  return prepared;
}

std::string PreparedPrefill::description() const {
  return fmt::format("portable {}", kernel_->name);
}

Status PreparedPrefill::launch(CUstream_st* stream) const {
  if (grid_[2] == 0) return {};  // no query rows
  void* arguments[] = {const_cast<PrefillParams*>(&params_)};
  return cuda_ok(cudaLaunchKernel(entry_.function, dim3(grid_[0], grid_[1], grid_[2]),
                                  dim3(entry_.threads), arguments, entry_.shared_bytes, stream));
}

}  // namespace kv8::portable
