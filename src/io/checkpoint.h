// A checkpoint folder: config, tensors of one or many safetensors files, quantization metadata.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_config.h"
#include "io/safetensors.h"

namespace kv8::io {

/// What hf_quant_config.json, or config.json's `quantization_config`, says.
struct QuantizationInfo {
  bool kv_cache_fp8 = false;
  std::string kv_cache_algo;  ///< "FP8", "FP8_KV8" or ""
  std::string weight_algo;    ///< "" when weights are not quantized, else "FP8", "NVFP4", …
  std::string source;         ///< file and field it came from, for messages
};

/// FP8 KV scales of one layer as the checkpoint has them: dequant scales, 1 or num_kv_heads values.
struct LayerKvScales {
  std::vector<float> k, v;
  std::vector<float> q;  ///< empty: the checkpoint has no q_scale
};

class Checkpoint {
 public:
  /// Opens model.safetensors, or the shards of model.safetensors.index.json (both at once is an
  /// error). Checks that every tensor of the index is where it says, once. Quantized weights, and
  /// KV caches quantized in any other way than plain FP8, are refused by name.
  static Result<Checkpoint> open(const std::filesystem::path& dir);

  /// A checkpoint without files: `name` stands for the folder in messages.
  static Checkpoint in_memory(std::string name, ModelConfig config, QuantizationInfo quantization,
                              std::map<std::string, TensorView, std::less<>> tensors);
  /// The same model cut off behind its first `count` layers (1 to num_layers).
  Result<Checkpoint> first_layers(std::int32_t count) const;

  const std::filesystem::path& dir() const { return dir_; }
  const ModelConfig& config() const { return config_; }
  const QuantizationInfo& quantization() const { return quantization_; }
  bool has(std::string_view tensor) const;
  Result<TensorView> tensor(std::string_view name) const;
  /// The tensor if it has exactly this shape and a float type (F32, F16, BF16), else an error that
  /// names tensor, file, found and expected.
  Result<TensorView> weight(std::string_view name, const Shape& shape) const;
  /// Names in the order of the files, and by name within each.
  const std::vector<std::string>& tensor_names() const { return names_; }

  /// Scales of every layer when quantization().kv_cache_fp8. K and V scales of layer i are
  /// `model.layers.{i}.self_attn.k_proj.k_scale` and `….v_proj.v_scale` (ModelOpt), or
  /// `….self_attn.k_scale` / `v_scale` (compressed-tensors); Q's `….q_proj.q_scale`. A scale that
  /// is missing, not positive, not finite or of a shape other than [], [1], [num_kv_heads] is an
  /// error naming the tensor; never 1.0.
  Result<std::vector<LayerKvScales>> kv_scales() const;

 private:
  std::filesystem::path dir_;
  ModelConfig config_;
  QuantizationInfo quantization_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::vector<std::string> names_;
};

}  // namespace kv8::io
