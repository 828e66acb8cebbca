#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {
using namespace short_names;

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry fp8_d64_rows256() {
  return kernel_entry<PrefillConfig<kE4m3, 64, kH, 4, 1, 128, 4, 1, 5, kS>>();
}
KernelEntry fp8_d64_rows192() {
  return kernel_entry<PrefillConfig<kE4m3, 64, kH, 3, 1, 192, 4, 1, 5, kS>>();
}
KernelEntry fp8_d64_rows64() {
  return kernel_entry<PrefillConfig<kE4m3, 64, kH, 1, 1, 128, 4, 2, 4, kS>>();
}
KernelEntry fp8_d64_split3() {
  return kernel_entry<PrefillConfig<kE4m3, 64, kH, 1, 3, 128, 6, 1, 4, kS>>();
}

}  // namespace kv8::sm90
