#include "cuda/attention/portable/prefill/entry.cuh"

namespace kv8::portable {

PrefillEntry f16_d64() { return prefill_entry<PrefillConfig<Products::kF16, 64>>(); }
PrefillEntry f16_d128() { return prefill_entry<PrefillConfig<Products::kF16, 128>>(); }

}  // namespace kv8::portable
