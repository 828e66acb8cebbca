#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {
using namespace short_names;

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry fp8_d128_rows192_keys192() {
  return kernel_entry<PrefillConfig<kE4m3, 128, kH, 3, 1, 192, 3, 1, 4, kS>>();
}
KernelEntry fp8_d128_rows192_keys128() {
  return kernel_entry<PrefillConfig<kE4m3, 128, kH, 3, 1, 128, 4, 1, 4, kS>>();
}

}  // namespace kv8::sm90
