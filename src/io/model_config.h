// config.json of a Hugging Face model, reduced to what the decoder families need.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ops/rope.h"
#include "tensor/tensor.h"

namespace kv8::io {

enum class Family { kLlama, kMistral, kQwen2, kQwen3 };

struct ModelConfig {
  Family family = Family::kLlama;
  std::string model_type;  ///< "llama", "mistral", "qwen2", "qwen3"
  std::int32_t hidden_size = 0, intermediate_size = 0, vocab_size = 0;
  std::int32_t num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-5f;
  bool tie_word_embeddings = false;
  bool attention_bias = false;         ///< q, k, v projections have a bias (qwen2: always)
  bool attention_output_bias = false;  ///< o projection has one too (llama, qwen3; never qwen2)
  bool mlp_bias = false;
  DType dtype = DType::kF16;  ///< torch_dtype / dtype: kF16, kBF16 or kF32
  RopeConfig rope;
  std::int32_t bos_token_id = -1;  ///< -1: none
  std::vector<std::int32_t> eos_token_ids;
  std::string raw_json;  ///< the file's text, for writing it back with additions
};

/// Model types that parse_model_config accepts, for messages.
std::string_view supported_model_types();

/// Reads and checks config.json's text (transformers 4's `rope_theta`/`rope_scaling`/`torch_dtype`
/// and transformers 5's `rope_parameters`/`dtype` spellings). Errors name `source` and the field.
/// Sliding-window attention that would take effect, MoE, vision models and unknown `model_type`s
/// are refused with the list of supported ones.
Result<ModelConfig> parse_model_config(std::string_view json_text, std::string_view source);
/// The same from `dir`/config.json, with generation_config.json's eos_token_id merged in.
Result<ModelConfig> read_model_config(const std::filesystem::path& dir);

}  // namespace kv8::io
