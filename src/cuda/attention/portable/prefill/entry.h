// The compiled portable prefill kernels, as host code sees them.
#pragma once

namespace kv8::portable {

struct PrefillEntry {
  const void* function = nullptr;
  int threads = 0;
  int rows = 0;  ///< query rows of a block
  int shared_bytes = 0;
};

PrefillEntry e4m3_d64();
PrefillEntry e4m3_d128();
PrefillEntry widened_d64();
PrefillEntry widened_d128();
PrefillEntry f16_d64();
PrefillEntry f16_d128();

}  // namespace kv8::portable
