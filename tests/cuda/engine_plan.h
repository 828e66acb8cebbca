// Small decoders with random weights in the shapes of Llama 3, Qwen2.5 and Qwen3.
#pragma once

#include <cstdint>
#include <random>

#include "graph/plan.h"

namespace kv8::cuda_testing {

struct DecoderShape {
  const char* name;
  int layers = 2, hidden = 128, inner = 192, vocab = 320;
  int heads = 4, kv_heads = 2, head_dim = 64;
  bool bias = false, head_norms = false;
  DType dtype = DType::kF16;
};

inline constexpr DecoderShape kLlama3{.name = "llama3"};
inline constexpr DecoderShape kQwen25{.name = "qwen2.5", .heads = 6, .kv_heads = 1, .bias = true};
inline constexpr DecoderShape kQwen3{.name = "qwen3",
                                     .hidden = 192,
                                     .heads = 4,
                                     .kv_heads = 4,
                                     .head_dim = 128,
                                     .head_norms = true,
                                     .dtype = DType::kBF16};

/// kFp8HalfScores: exponents shifted so that prefill attention may sum scores in FP16.
enum class CacheKind { kF16, kFp8, kFp8PerHead, kFp8WithF16Queries, kFp8HalfScores };

struct RandomDecoder {
  Plan plan;
  TensorView embedding;
};

/// The same model every time.
RandomDecoder make_decoder(const DecoderShape& shape, CacheKind cache);

}  // namespace kv8::cuda_testing
