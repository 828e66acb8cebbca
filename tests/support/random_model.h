// Small decoders with random weights, as checkpoint folders, in shapes that the GPU's kernels take:
// the tiny models of tests/data have smaller heads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ostream>

#include "tensor/tensor.h"

namespace kv8::test {

struct RandomModel {
  const char* name;
  const char*
      model_type;  ///< of config.json: "llama", "qwen2" (biases), "qwen3" (norms of Q and K)
  std::int32_t hidden = 128, inner = 192, layers = 2;
  std::int32_t heads = 4, kv_heads = 2, head_dim = 64;
  bool tied = false;  ///< the output matrix is the embedding
  DType dtype = DType::kF16;
};

// Without this, GoogleTest prints the bytes.
inline void PrintTo(const RandomModel& model, std::ostream* out) { *out << model.name; }

/// Ids of all of them: the tiny tokenizer's 264 and some that it never gives.
inline constexpr std::int32_t kRandomVocab = 280;

inline constexpr RandomModel kRandomLlama3{.name = "llama3", .model_type = "llama"};
inline constexpr RandomModel kRandomQwen25{
    .name = "qwen25", .model_type = "qwen2", .heads = 6, .kv_heads = 1, .tied = true};
inline constexpr RandomModel kRandomQwen3{.name = "qwen3",
                                          .model_type = "qwen3",
                                          .hidden = 192,
                                          .kv_heads = 4,
                                          .head_dim = 128,
                                          .dtype = DType::kBF16};

/// Writes config.json, model.safetensors and make_tiny_checkpoint's other files; the same every
/// time. Every matrix keeps the variance of what it is given, so logits have a deviation of about
/// 1: the model is never sure, and everything that attention adds can be seen in them. Aborts the
/// test by an exception if files cannot be written.
void make_random_checkpoint(const RandomModel& model, const std::filesystem::path& dir);

}  // namespace kv8::test
