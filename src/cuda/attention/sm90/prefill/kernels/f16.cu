#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry f16_d128_rows192() {
  return kernel_entry<
      PrefillConfig<KvType::kF16, 128, ScoreType::kF32, 3, 1, 128, 2, 1, 0, Loop::kSerial>>();
}
KernelEntry f16_d128_rows128() {
  return kernel_entry<
      PrefillConfig<KvType::kF16, 128, ScoreType::kF32, 2, 1, 128, 2, 1, 0, Loop::kSerial>>();
}
KernelEntry f16_d128_rows64() {
  return kernel_entry<
      PrefillConfig<KvType::kF16, 128, ScoreType::kF32, 1, 1, 64, 3, 2, 0, Loop::kOverlapped>>();
}
KernelEntry f16_d64_rows192() {
  return kernel_entry<
      PrefillConfig<KvType::kF16, 64, ScoreType::kF32, 3, 1, 128, 3, 1, 0, Loop::kSerial>>();
}
KernelEntry f16_d64_rows64() {
  return kernel_entry<
      PrefillConfig<KvType::kF16, 64, ScoreType::kF32, 1, 1, 128, 3, 2, 0, Loop::kSerial>>();
}

}  // namespace kv8::sm90
