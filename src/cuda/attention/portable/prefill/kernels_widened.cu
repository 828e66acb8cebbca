#include "cuda/attention/portable/prefill/entry.cuh"

namespace kv8::portable {

PrefillEntry widened_d64() { return prefill_entry<PrefillConfig<Products::kWidened, 64>>(); }
PrefillEntry widened_d128() { return prefill_entry<PrefillConfig<Products::kWidened, 128>>(); }

}  // namespace kv8::portable
