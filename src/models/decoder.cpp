#include "models/decoder.h"

#include <cmath>

#include "models/graph_builder.h"
#include "ops/rope.h"

namespace kv8::models {
namespace {

using graph::Graph;
using io::ModelConfig;

/// What K, V and Q are rounded to once after RoPE. A checkpoint in FP32 is served as FP16.
DType rounding_dtype(const ModelConfig& config) {
  return config.dtype == DType::kBF16 ? DType::kBF16 : DType::kF16;
}

/// The decoder, one function per piece of the model. Each takes and returns names of values.
class Decoder {
 public:
  Decoder(const io::Checkpoint& checkpoint, const DecoderOptions& options, const RopeTable& rope)
      : checkpoint_(checkpoint), config_(checkpoint.config()), options_(options), rope_(rope) {}

  Result<Graph> build() {
    declare_inputs();
    make_constants();
    make_rotation();
    Value hidden = embed();
    for (int layer = 0; layer < config_.num_layers; ++layer) hidden = decoder_layer(layer, hidden);
    logits(hidden);
    describe();
    return b_.finish();
  }

 private:
  struct Heads {
    const char* letter;  ///< "q", "k" or "v"
    std::int32_t count;
    bool bias, norm, rotate;
  };

  void declare_inputs() {
    if (options_.portable) {
      b_.input("input_ids", DType::kI64, {"batch", "sequence"});
    } else {
      b_.input("inputs_embeds", DType::kF16,
               {"batch", "sequence", std::int64_t{config_.hidden_size}});
    }
    b_.input("position_ids", DType::kI64, {"batch", "sequence"});
    b_.input("cache_write_index", DType::kI64, {"batch"});
    b_.input("nonpad_kv_seqlen", DType::kI64, {"batch"});
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      for (const char* what : {"key", "value"}) {
        b_.input(past_name(layer, what), cache_dtype(), cache_shape());
      }
    }
    b_.output("logits", DType::kF32,
              {"batch", options_.last_token_only ? graph::Dim{std::int64_t{1}} : "sequence",
               std::int64_t{config_.vocab_size}});
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      for (const char* what : {"key", "value"}) {
        b_.output(present_name(layer, what), cache_dtype(), cache_shape());
      }
    }
  }

  void make_constants() {
    const std::int64_t head_dim = config_.head_dim;
    b_.constant("shape.q_heads", {0, 0, config_.num_heads, head_dim});
    b_.constant("shape.kv_heads", {0, 0, config_.num_kv_heads, head_dim});
    b_.constant("shape.merged_heads", {0, 0, config_.num_heads * head_dim});
  }

  /// cos and sin of every position's angles, [batch, sequence, head_dim / 2].
  void make_rotation() {
    const auto half = static_cast<std::int64_t>(rope_.inv_freq.size());
    b_.constant("rope.inv_freq", rope_.inv_freq, {half});
    b_.constant("rope.axes", {2});
    const Value positions = b_.cast("rope.positions", "position_ids", DType::kF32);
    const Value column = b_.node("Unsqueeze", "rope.positions_column", {positions, "rope.axes"});
    const Value angles = b_.node("Mul", "rope.angles", {column, "rope.inv_freq"});
    const bool scaled = rope_.attention_factor != 1.0f;
    cos_ = b_.node("Cos", scaled ? "rope.cos_unscaled" : "rope.cos", {angles});
    sin_ = b_.node("Sin", scaled ? "rope.sin_unscaled" : "rope.sin", {angles});
    if (!scaled) return;
    b_.constant("rope.attention_factor", std::span(&rope_.attention_factor, 1), {});
    cos_ = b_.node("Mul", "rope.cos", {cos_, "rope.attention_factor"});
    sin_ = b_.node("Mul", "rope.sin", {sin_, "rope.attention_factor"});
  }

  /// FP16 rows of the embedding as FP32; the portable variant gathers them itself.
  Value embed() {
    Value embeds = "inputs_embeds";
    if (options_.portable) {
      const Value table = embedding_weight();
      embeds = b_.node("Gather", "embeds", {table, "input_ids"}, {{"axis", std::int64_t{0}}});
      if (b_.dtype_of(table) != DType::kF16) embeds = b_.cast("embeds.f16", embeds, DType::kF16);
    }
    return b_.cast("hidden", embeds, DType::kF32);
  }

  Value decoder_layer(int layer, const Value& hidden) {
    const std::string in = fmt::format("model.layers.{}.", layer);
    const std::string out = fmt::format("layers.{}.", layer);
    const Value normed =
        rms_norm(hidden, in + "input_layernorm", config_.hidden_size, out + "input_norm");
    const Value attended =
        b_.node("Add", out + "attn.residual", {hidden, attention(layer, normed)});
    const Value post = rms_norm(attended, in + "post_attention_layernorm", config_.hidden_size,
                                out + "post_attention_norm");
    return b_.node("Add", out + "hidden", {attended, mlp(layer, post)});
  }

  Value attention(int layer, const Value& x) {
    const std::string self = fmt::format("model.layers.{}.self_attn.", layer);
    const std::string out = fmt::format("layers.{}.attn.", layer);
    const bool qkv_bias = config_.attention_bias;
    const bool head_norm = config_.family == io::Family::kQwen3;
    const Value q =
        query(layer, heads(layer, x, {"q", config_.num_heads, qkv_bias, head_norm, true}));
    const Value k = cached(layer, "k", "key",
                           heads(layer, x, {"k", config_.num_kv_heads, qkv_bias, head_norm, true}));
    const Value v = cached(layer, "v", "value",
                           heads(layer, x, {"v", config_.num_kv_heads, qkv_bias, false, false}));
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    const Value heads_out =
        b_.node("Attention", out + "context_heads", {q, k, v, "", "", "", "nonpad_kv_seqlen"},
                {{"is_causal", std::int64_t{1}}, {"scale", scale}});
    const Value rows = b_.transpose(out + "context_rows", heads_out, {0, 2, 1, 3});
    const Value merged = b_.node("Reshape", out + "context", {rows, "shape.merged_heads"});
    return linear(merged, self + "o_proj", config_.hidden_size,
                  std::int64_t{config_.num_heads} * config_.head_dim, config_.attention_output_bias,
                  out + "o_proj");
  }

  /// Projection, split in heads, normalised and rotated where the model does, rounded to the
  /// model's type: [batch, heads, sequence, head_dim].
  Value heads(int layer, const Value& x, const Heads& h) {
    const std::string self = fmt::format("model.layers.{}.self_attn.{}", layer, h.letter);
    const std::string out = fmt::format("layers.{}.attn.{}", layer, h.letter);
    const bool query = h.letter[0] == 'q';
    const Value rows = linear(x, self + "_proj", std::int64_t{h.count} * config_.head_dim,
                              config_.hidden_size, h.bias, out + "_proj");
    Value split =
        b_.node("Reshape", out + "_split", {rows, query ? "shape.q_heads" : "shape.kv_heads"});
    if (h.norm) split = rms_norm(split, self + "_norm", config_.head_dim, out + "_norm");
    Value value = b_.transpose(out + "_heads", split, {0, 2, 1, 3});
    if (h.rotate) {
      value = b_.node("RotaryEmbedding", out + "_rotated", {value, cos_, sin_},
                      {{"interleaved", std::int64_t{0}}});
    }
    return b_.cast(out + "_rounded", value, rounding_dtype(config_));
  }

  Value query(int layer, const Value& rounded) {
    const std::string out = fmt::format("layers.{}.attn.q", layer);
    const Value full = b_.cast(out + "_f32", rounded, DType::kF32);
    if (!options_.quantize_kv || !options_.quantize_q) return full;
    const std::vector<float>& q_scale = options_.kv_scales[layer].q;
    if (q_scale.empty()) return full;
    const Value scale = scale_constant(layer, "q", q_scale);
    return dequantize(out, quantize(out + "_codes", full, scale), scale);
  }

  /// Writes a step's keys or values to the cache and gives the whole cache as FP32.
  Value cached(int layer, const char* letter, const char* what, const Value& rounded) {
    const std::string out = fmt::format("layers.{}.attn.{}", layer, letter);
    if (!options_.quantize_kv) {
      Value half = rounded;
      if (rounding_dtype(config_) != DType::kF16) half = b_.cast(out + "_f16", half, DType::kF16);
      if (options_.portable) return scatter(layer, what, b_.cast(out + "_f32", half, DType::kF32));
      return b_.cast(out, scatter(layer, what, half), DType::kF32);
    }
    const io::LayerKvScales& scales = options_.kv_scales[layer];
    const Value scale = scale_constant(layer, letter, letter[0] == 'k' ? scales.k : scales.v);
    const Value full = b_.cast(out + "_f32", rounded, DType::kF32);
    const Value codes = quantize(out + "_codes", full, scale);
    if (options_.portable)
      return scatter(layer, what, dequantize(out + "_dequantized", codes, scale));
    return dequantize(out, scatter(layer, what, codes), scale);
  }

  Value scatter(int layer, const char* what, const Value& update) {
    return b_.node("TensorScatter", present_name(layer, what),
                   {past_name(layer, what), update, "cache_write_index"},
                   {{"axis", std::int64_t{2}}, {"mode", std::string("linear")}});
  }

  Value mlp(int layer, const Value& x) {
    const std::string in = fmt::format("model.layers.{}.mlp.", layer);
    const std::string out = fmt::format("layers.{}.mlp.", layer);
    const std::int64_t hidden = config_.hidden_size, inner = config_.intermediate_size;
    const bool bias = config_.mlp_bias;
    const Value gate = linear(x, in + "gate_proj", inner, hidden, bias, out + "gate_proj");
    const Value up = linear(x, in + "up_proj", inner, hidden, bias, out + "up_proj");
    const Value activated = b_.node("Swish", out + "activated", {gate});
    const Value product = b_.node("Mul", out + "product", {activated, up});
    return linear(product, in + "down_proj", hidden, inner, bias, out + "down_proj");
  }

  void logits(Value hidden) {
    if (options_.last_token_only) {
      b_.constant("last_token", {-1});
      hidden =
          b_.node("Gather", "last_hidden", {hidden, "last_token"}, {{"axis", std::int64_t{1}}});
    }
    const Value normed = rms_norm(hidden, "model.norm", config_.hidden_size, "final_norm");
    const Value weight =
        config_.tie_word_embeddings
            ? embedding_weight()
            : weight_value("lm_head.weight", {config_.vocab_size, config_.hidden_size});
    b_.node("MatMul", "logits", {normed, transposed_f32(weight)});
  }

  /// x W^T (+ b), with W and b in the checkpoint's type, used as FP32.
  Value linear(const Value& x, const std::string& name, std::int64_t out_features,
               std::int64_t in_features, bool bias, const std::string& result) {
    const Value weight = weight_value(name + ".weight", {out_features, in_features});
    const Value matrix = transposed_f32(weight);
    if (!bias) return b_.node("MatMul", result, {x, matrix});
    const Value product = b_.node("MatMul", result + ".product", {x, matrix});
    const Value offset = weight_value(name + ".bias", {out_features});
    return b_.node("Add", result, {product, b_.cast(offset + ".f32", offset, DType::kF32)});
  }

  Value transposed_f32(const Value& weight) {
    const Value full = b_.cast(weight + ".f32", weight, DType::kF32);
    return b_.transpose(weight + ".transposed", full, {1, 0});
  }

  Value rms_norm(const Value& x, const std::string& name, std::int64_t size,
                 const std::string& result) {
    const Value weight = weight_value(name + ".weight", {size});
    return b_.node("RMSNormalization", result, {x, b_.cast(weight + ".f32", weight, DType::kF32)},
                   {{"axis", std::int64_t{-1}},
                    {"epsilon", config_.rms_norm_eps},
                    {"stash_type", std::int64_t{1}}});
  }

  Value quantize(const std::string& name, const Value& x, const Value& scale) {
    auto attributes = scale_axis(scale);
    attributes["output_dtype"] = graph::onnx_dtype(DType::kF8E4M3);
    attributes["saturate"] = std::int64_t{1};
    return b_.node("QuantizeLinear", name, {x, scale}, std::move(attributes));
  }

  Value dequantize(const std::string& name, const Value& codes, const Value& scale) {
    return b_.node("DequantizeLinear", name, {codes, scale}, scale_axis(scale));
  }

  /// Scales per head lie along axis 1 of [batch, heads, sequence, head_dim].
  graph::Attributes scale_axis(const Value& scale) const {
    if (b_.rank_of(scale) == 0) return {};
    return {{"axis", std::int64_t{1}}};
  }

  /// One scale becomes a scalar, several a vector; named as in the checkpoint.
  Value scale_constant(int layer, const char* letter, const std::vector<float>& scales) {
    Shape shape;
    if (scales.size() > 1) shape = {static_cast<std::int64_t>(scales.size())};
    return b_.constant(
        fmt::format("model.layers.{}.self_attn.{}_proj.{}_scale", layer, letter, letter), scales,
        std::move(shape));
  }

  Value embedding_weight() {
    return weight_value("model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size});
  }

  Value weight_value(const std::string& name, const Shape& shape) {
    return b_.weight(name, [&] { return checkpoint_.weight(name, shape); });
  }

  void describe() {
    b_.metadata("kv8.graph_version", "1");
    b_.metadata("model_type", config_.model_type);
    if (config_.rope.scaling.kind == RopeScalingKind::kDynamic) {
      const int original = config_.rope.scaling.original_max_position;
      b_.metadata("kv8.max_positions",
                  std::to_string(original > 0 ? original : config_.rope.max_position));
    }
  }

  DType cache_dtype() const {
    if (options_.portable) return DType::kF32;
    return options_.quantize_kv ? DType::kF8E4M3 : DType::kF16;
  }
  std::vector<graph::Dim> cache_shape() const {
    return {"batch", std::int64_t{config_.num_kv_heads}, "capacity",
            std::int64_t{config_.head_dim}};
  }
  static std::string past_name(int layer, const char* what) {
    return fmt::format("past_key_values.{}.{}", layer, what);
  }
  static std::string present_name(int layer, const char* what) {
    return fmt::format("present.{}.{}", layer, what);
  }

  const io::Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const DecoderOptions& options_;
  const RopeTable& rope_;
  GraphBuilder b_{"decoder"};
  Value cos_, sin_;
};

}  // namespace

Result<Graph> build_decoder_graph(const io::Checkpoint& checkpoint, const DecoderOptions& options) {
  const ModelConfig& config = checkpoint.config();
  if (options.quantize_kv) {
    KV8_CHECK(options.kv_scales.size() == static_cast<std::size_t>(config.num_layers),
              "scales of {} layers for {} layers", options.kv_scales.size(), config.num_layers);
  }
  const RopeTable rope = KV8_TRY(make_rope_table(config.rope));
  return Decoder(checkpoint, options, rope).build();
}

Result<DecoderOptions> options_from_checkpoint(const io::Checkpoint& checkpoint) {
  DecoderOptions options;
  options.quantize_kv = checkpoint.quantization().kv_cache_fp8;
  if (options.quantize_kv) options.kv_scales = KV8_TRY(checkpoint.kv_scales());
  return options;
}

}  // namespace kv8::models
