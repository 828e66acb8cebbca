#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry fp8_d64_rows256() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 64, ScoreType::kF16, 4, 1, 128, 4, 1, 5, Loop::kSerial>>();
}
KernelEntry fp8_d64_rows192() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 64, ScoreType::kF16, 3, 1, 192, 4, 1, 5, Loop::kSerial>>();
}
KernelEntry fp8_d64_rows64() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 64, ScoreType::kF16, 1, 1, 128, 4, 2, 4, Loop::kSerial>>();
}
KernelEntry fp8_d64_split3() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 64, ScoreType::kF16, 1, 3, 128, 6, 1, 4, Loop::kSerial>>();
}

}  // namespace kv8::sm90
