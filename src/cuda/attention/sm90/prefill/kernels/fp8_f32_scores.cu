#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry fp8_d128_f32_scores() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 128, ScoreType::kF32, 2, 1, 128, 4, 1, 0, Loop::kSerial>>();
}
KernelEntry fp8_d64_f32_scores() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 64, ScoreType::kF32, 3, 1, 128, 4, 1, 0, Loop::kSerial>>();
}

}  // namespace kv8::sm90
