#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {
using namespace short_names;

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry fp8_d128_f32_scores() {
  return kernel_entry<PrefillConfig<kE4m3, 128, kF, 2, 1, 128, 4, 1, 0, kS>>();
}
KernelEntry fp8_d64_f32_scores() {
  return kernel_entry<PrefillConfig<kE4m3, 64, kF, 3, 1, 128, 4, 1, 0, kS>>();
}

}  // namespace kv8::sm90
