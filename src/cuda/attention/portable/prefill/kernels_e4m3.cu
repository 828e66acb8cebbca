#include "cuda/attention/portable/prefill/entry.cuh"

namespace kv8::portable {

PrefillEntry e4m3_d64() { return prefill_entry<PrefillConfig<Products::kE4m3, 64>>(); }
PrefillEntry e4m3_d128() { return prefill_entry<PrefillConfig<Products::kE4m3, 128>>(); }

}  // namespace kv8::portable
