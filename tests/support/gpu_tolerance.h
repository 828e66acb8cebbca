// How far the results of small random models may be apart where kernels differ: those of the CPU
// and of the GPU, or those that the GPU chooses for batches of other sizes.
#pragma once

#include <cmath>

#include "tensor/tensor.h"

namespace kv8::test {

/// Of logits, relative to their norm. Activations are rounded to the model's type a dozen times
/// over two layers (6 units of 2^-11 or 2^-8); an FP8 cache adds codes that flip where values lie
/// beside a tie, and probabilities in FP8.
inline double logits_tolerance(DType model_type, bool fp8_cache) {
  return 6 * (model_type == DType::kBF16 ? 0x1p-8 : 0x1p-11) + (fp8_cache ? 0.03 : 0.0);
}

/// Of the difference of two logits, which is also how far apart two tokens may be that change
/// places. Logits of make_random_checkpoint's models have a deviation of 1, a difference of two
/// errors that of one times sqrt(2), and in a million of them none is beyond six deviations.
inline double tie_tolerance(DType model_type, bool fp8_cache) {
  return 6 * std::sqrt(2.0) * logits_tolerance(model_type, fp8_cache);
}

}  // namespace kv8::test
