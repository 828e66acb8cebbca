// The host-side description of an instantiated kernel.
#pragma once

#include "cuda/attention/portable/prefill/entry.h"
#include "cuda/attention/portable/prefill/kernel.cuh"

namespace kv8::portable {

template <class C>
PrefillEntry prefill_entry() {
  PrefillEntry entry;
  entry.function = reinterpret_cast<const void*>(&prefill_attention<C>);
  entry.threads = C::kThreads;
  entry.rows = C::kRows;
  entry.shared_bytes = C::kSharedBytes;
  return entry;
}

}  // namespace kv8::portable
