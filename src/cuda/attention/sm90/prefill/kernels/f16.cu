#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {
using namespace short_names;

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry f16_d128_rows192() {
  return kernel_entry<PrefillConfig<kHalf, 128, kF, 3, 1, 128, 2, 1, 0, kS>>();
}
KernelEntry f16_d128_rows128() {
  return kernel_entry<PrefillConfig<kHalf, 128, kF, 2, 1, 128, 2, 1, 0, kS>>();
}
KernelEntry f16_d128_rows64() {
  return kernel_entry<PrefillConfig<kHalf, 128, kF, 1, 1, 64, 3, 2, 0, kO>>();
}
KernelEntry f16_d64_rows192() {
  return kernel_entry<PrefillConfig<kHalf, 64, kF, 3, 1, 128, 3, 1, 0, kS>>();
}
KernelEntry f16_d64_rows64() {
  return kernel_entry<PrefillConfig<kHalf, 64, kF, 1, 1, 128, 3, 2, 0, kS>>();
}

}  // namespace kv8::sm90
