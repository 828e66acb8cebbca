// How a portable prefill kernel multiplies. Plain, so that host code can include it.
#pragma once

namespace kv8::portable {

enum class Products {
  kE4m3,     ///< FP8 cache: E4M3 x E4M3, probabilities as E4M3
  kWidened,  ///< FP8 cache: codes widened to FP16, probabilities as FP16
  kF16,      ///< FP16 cache
};

}  // namespace kv8::portable
