#include "cuda/attention/sm90/prefill/entry.cuh"
#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {

// type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, code eighths, loop
KernelEntry fp8_d128_rows192_keys192() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 128, ScoreType::kF16, 3, 1, 192, 3, 1, 4, Loop::kSerial>>();
}
KernelEntry fp8_d128_rows192_keys128() {
  return kernel_entry<
      PrefillConfig<KvType::kE4m3, 128, ScoreType::kF16, 3, 1, 128, 4, 1, 4, Loop::kSerial>>();
}

}  // namespace kv8::sm90
