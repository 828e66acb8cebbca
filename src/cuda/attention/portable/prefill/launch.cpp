#include "cuda/attention/portable/prefill/launch.h"

#include <cuda_runtime_api.h>

#include <array>

#include "cuda/attention/prefill/check.h"

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

Result<const PrefillKernel*> select_kernel(KvType kv_type, int head_dim, int major, int minor) {
  const bool e4m3 = (major == 8 && minor == 9) || major == 12;
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
  const PrefillKernel* kernel = KV8_TRY(select_kernel(args.kv_type, args.head_dim, major, minor));
  return prepare_prefill(args, *kernel);
}

Result<PreparedPrefill> prepare_prefill(const PrefillArgs& a, const PrefillKernel& kernel) {
  KV8_TRY(prefill::check(a));
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
  PrefillParams& p = prepared.params_;
  p.q = static_cast<const std::uint8_t*>(a.q);
  p.k = static_cast<const std::uint8_t*>(a.k_pool);
  p.v = static_cast<const std::uint8_t*>(a.v_pool);
  p.out = static_cast<std::uint16_t*>(a.out);
  p.page_table = a.page_table;
  p.cu_seqlens_q = a.cu_seqlens_q;
  p.kv_lens = a.kv_lens;
  p.q_scale = a.q_scale;
  p.k_scale = a.k_scale;
  p.v_scale = a.v_scale;
  p.v_offset = a.v_offset;
  p.scale_stride = a.scale_per_head ? 1 : 0;
  p.num_heads = a.num_heads;
  p.num_kv_heads = a.num_kv_heads;
  p.max_pages = a.max_pages;
  p.score_scale = a.softmax_scale * 1.44269504088896341f;
  p.out_is_bf16 = a.out_type == OutType::kBf16;
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
