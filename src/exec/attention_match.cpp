#include "exec/attention_match.h"

#include <cmath>

namespace kv8::exec {
namespace {

using graph::Attribute;
using graph::Node;

const Attribute kZero{std::int64_t{0}};
const Attribute kOne{std::int64_t{1}};

}  // namespace

Result<AttentionMatch> AttentionMatcher::match(std::size_t layer, const std::string& merged) {
  std::vector<std::int64_t> width;
  const std::string rows = KV8_TRY(graph_.reshape(merged, 1, width, "the merged heads"));
  const std::string context = KV8_TRY(graph_.transpose(rows, {0, 2, 1, 3}, "the merged heads"));
  const Node* attention = KV8_TRY(graph_.node(context, "Attention", "attention over the cache",
                                              {{"is_causal", kOne, true},
                                               {"scale", std::nullopt, true},
                                               {"qk_matmul_output_mode", kZero}}));
  for (const std::size_t index : {3, 4, 5}) KV8_TRY(graph_.operand_is(*attention, index, ""));
  KV8_TRY(graph_.operand_is(*attention, 6, "nonpad_kv_seqlen"));

  AttentionMatch match;
  match.softmax_scale = KV8_TRY(graph_.float_attribute(*attention, "scale"));
  if (!(match.softmax_scale > 0)) {
    return bad_input("{}: scale {}, expected a positive number", graph_.describe(*attention),
                     match.softmax_scale);
  }
  match.k = KV8_TRY(cached(layer, "key", attention->inputs[1], match.cache));
  match.v = KV8_TRY(cached(layer, "value", attention->inputs[2], match.cache));
  match.q = KV8_TRY(query(attention->inputs[0], match.cache));
  KV8_TRY(check_geometry(layer, match));
  match.num_heads = match.q.num_heads;
  match.num_kv_heads = match.k.num_heads;
  match.head_dim = match.q.head_dim;
  match.model_dtype = match.k.model_dtype;
  if (width[0] != match.num_heads * match.head_dim) {
    return bad_input("{}: merges to {} columns, expected {}", graph_.describe(merged), width[0],
                     match.num_heads * match.head_dim);
  }
  // A scale per tensor and one per head beside it: both per head.
  const auto heads = static_cast<std::size_t>(match.num_kv_heads);
  std::vector<float>&k = match.cache.k_scale, &v = match.cache.v_scale;
  if (k.size() < v.size()) k.assign(heads, k.at(0));
  if (v.size() < k.size()) v.assign(heads, v.at(0));
  return match;
}

Status AttentionMatcher::check_geometry(std::size_t layer, const AttentionMatch& match) const {
  const HeadsMatch &q = match.q, &k = match.k, &v = match.v;
  if (k.num_heads != v.num_heads || q.num_heads % k.num_heads != 0) {
    return bad_input("{} query, {} key and {} value heads do not fit together", q.num_heads,
                     k.num_heads, v.num_heads);
  }
  if (q.head_dim != k.head_dim || q.head_dim != v.head_dim) {
    return bad_input("head_dim {} of Q, {} of K, {} of V: expected the same", q.head_dim,
                     k.head_dim, v.head_dim);
  }
  if (q.model_dtype != k.model_dtype || q.model_dtype != v.model_dtype) {
    return bad_input("Q is rounded to {}, K to {}, V to {}: expected the same",
                     dtype_name(q.model_dtype), dtype_name(k.model_dtype),
                     dtype_name(v.model_dtype));
  }
  if (v.norm) return unsupported("{}: expected no norm of V", graph_.describe(*v.norm));
  KV8_TRY(check_past(layer, "key", match));
  return check_past(layer, "value", match);
}

Status AttentionMatcher::check_past(std::size_t layer, std::string_view kind,
                                    const AttentionMatch& match) const {
  const std::string name = fmt::format("past_key_values.{}.{}", layer, kind);
  const graph::ValueInfo* past = graph_.input(name);
  const auto size = [&](std::size_t index) {
    const auto* number = std::get_if<std::int64_t>(&past->shape[index]);
    return number == nullptr ? std::int64_t{-1} : *number;
  };
  if (past->shape.size() != 4 || size(1) != match.k.num_heads || size(3) != match.k.head_dim) {
    return bad_input("input `{}`: expected shape [batch, {}, capacity, {}]", name,
                     match.k.num_heads, match.k.head_dim);
  }
  return {};
}

Result<HeadsMatch> AttentionMatcher::query(const std::string& value, LayerCache& cache) {
  std::string full = value;
  if (graph_.is_output_of(value, "DequantizeLinear")) {
    const Node* dequantize = KV8_TRY(graph_.node(value, "DequantizeLinear", "the quantized query"));
    const Node* quantize =
        KV8_TRY(graph_.node(dequantize->inputs[0], "QuantizeLinear", "the quantized query",
                            {{"output_dtype", Attribute{graph::onnx_dtype(DType::kF8E4M3)}, true},
                             {"saturate", kOne}}));
    if (cache.dtype != DType::kF8E4M3) {
      return unsupported("{}: expected no quantized query beside an FP16 cache",
                         graph_.describe(*quantize));
    }
    KV8_TRY(graph_.operand_is(*quantize, 1, dequantize->inputs[1]));
    cache.q_scale = KV8_TRY(scale_of(*quantize, 1, "q_scale"));
    KV8_TRY(scale_of(*dequantize, 1, "q_scale"));
    full = quantize->inputs[0];
  }
  const std::string rounded = KV8_TRY(graph_.cast_to(full, DType::kF32, "the rounded query"));
  return heads(rounded, "query");
}

Result<HeadsMatch> AttentionMatcher::cached(std::size_t layer, const std::string& kind,
                                            const std::string& value, LayerCache& cache) {
  const std::string past = fmt::format("past_key_values.{}.{}", layer, kind);
  const std::string present = fmt::format("present.{}.{}", layer, kind);
  const DType dtype = graph_.is_output_of(value, "DequantizeLinear") ? DType::kF8E4M3 : DType::kF16;
  if (kind == "key") {
    cache.dtype = dtype;
  } else if (cache.dtype != dtype) {
    return bad_input("{}: expected a {} cache for values as for keys", graph_.describe(value),
                     dtype_name(cache.dtype));
  }
  if (dtype == DType::kF16) {
    const std::string whole = KV8_TRY(graph_.cast_to(value, DType::kF32, "the cached " + kind));
    std::string rounded = KV8_TRY(cache_update(past, present, whole, dtype));
    // A BF16 model rounds to its own type first, then to the cache's.
    if (const Node* cast = graph_.peek(rounded, "Cast");
        cast != nullptr && graph_.is_output_of(cast->inputs[0], "Cast")) {
      rounded = KV8_TRY(graph_.cast_to(rounded, DType::kF16, "the FP16 " + kind));
    }
    return heads(rounded, kind);
  }

  const Node* dequantize = KV8_TRY(
      graph_.node(value, "DequantizeLinear", "the cached " + kind, {{"axis", std::nullopt}}));
  const std::string codes = KV8_TRY(cache_update(past, present, dequantize->inputs[0], dtype));
  const Node* quantize =
      KV8_TRY(graph_.node(codes, "QuantizeLinear", "the quantized " + kind,
                          {{"axis", std::nullopt},
                           {"output_dtype", Attribute{graph::onnx_dtype(DType::kF8E4M3)}, true},
                           {"saturate", kOne}}));
  KV8_TRY(graph_.operand_is(*quantize, 1, dequantize->inputs[1]));
  const std::string rounded =
      KV8_TRY(graph_.cast_to(quantize->inputs[0], DType::kF32, "the rounded " + kind));
  HeadsMatch match = KV8_TRY(heads(rounded, kind));
  (kind == "key" ? cache.k_scale : cache.v_scale) =
      KV8_TRY(scale_of(*quantize, match.num_heads, kind == "key" ? "k_scale" : "v_scale"));
  KV8_TRY(scale_of(*dequantize, match.num_heads, kind + " scale"));
  return match;
}

Result<std::string> AttentionMatcher::cache_update(const std::string& past,
                                                   const std::string& present,
                                                   const std::string& value, DType dtype) {
  const graph::ValueInfo* input = graph_.input(past);
  if (input == nullptr) return bad_input("input `{}` is missing", past);
  if (input->dtype != dtype) {
    return bad_input("input `{}` is {}, expected {}", past, dtype_name(input->dtype),
                     dtype_name(dtype));
  }
  const Node* scatter = KV8_TRY(graph_.node(
      value, "TensorScatter", "the write to the cache",
      {{"axis", Attribute{std::int64_t{2}}, true}, {"mode", Attribute{std::string("linear")}}}));
  KV8_TRY(graph_.operand_is(*scatter, 0, past));
  KV8_TRY(graph_.operand_is(*scatter, 2, "cache_write_index"));
  if (value != present) {
    return bad_input("{}: expected `{}` as its output", graph_.describe(*scatter), present);
  }
  return scatter->inputs[1];
}

Result<HeadsMatch> AttentionMatcher::heads(const std::string& rounded, const std::string& kind) {
  const GraphMatcher::Cast cast =
      KV8_TRY(graph_.cast(rounded, fmt::format("the {} rounded to the model's type", kind)));
  HeadsMatch match;
  match.model_dtype = cast.to;
  if (cast.to != DType::kF16 && cast.to != DType::kBF16) {
    return bad_input("{}: casts to {}, expected the model's type, F16 or BF16",
                     graph_.describe(rounded), dtype_name(cast.to));
  }
  const bool rotates = kind != "value";
  const std::string straight = rotates ? KV8_TRY(unrotated(cast.input, kind)) : cast.input;
  std::string split =
      KV8_TRY(graph_.transpose(straight, {0, 2, 1, 3}, fmt::format("the {} heads", kind)));
  if (const Node* norm = graph_.peek(split, "RMSNormalization")) {
    match.norm = split;
    split = norm->inputs[0];
  }
  std::vector<std::int64_t> sizes;
  match.rows = KV8_TRY(graph_.reshape(split, 2, sizes, fmt::format("the {} heads", kind)));
  match.num_heads = sizes[0];
  match.head_dim = sizes[1];
  if (!rotates) return match;
  const Node* rotary = graph_.peek(cast.input, "RotaryEmbedding");
  KV8_TRY(match_rotation(rotary->inputs[1], rotary->inputs[2], match.head_dim));
  return match;
}

Result<std::string> AttentionMatcher::unrotated(const std::string& value, const std::string& kind) {
  const Node* rotary = KV8_TRY(
      graph_.node(value, "RotaryEmbedding", fmt::format("the rotated {}", kind),
                  {{"interleaved", kZero}, {"num_heads", kZero}, {"rotary_embedding_dim", kZero}}));
  KV8_TRY(graph_.operand_is(*rotary, 3, ""));
  return rotary->inputs[0];
}

Status AttentionMatcher::match_rotation(const std::string& cos, const std::string& sin,
                                        std::int64_t head_dim) {
  if (!rotation_.cos.empty()) {
    if (cos != rotation_.cos || sin != rotation_.sin) {
      return unsupported("rotation by `{}` and `{}`, expected `{}` and `{}` as in other layers",
                         cos, sin, rotation_.cos, rotation_.sin);
    }
    return {};
  }
  float sin_factor = 1.0f;
  const std::string angles = KV8_TRY(scaled_angles(cos, "Cos", rotation_.attention_factor));
  const std::string sin_angles = KV8_TRY(scaled_angles(sin, "Sin", sin_factor));
  if (angles != sin_angles || sin_factor != rotation_.attention_factor) {
    return bad_input("{}: expected the angles and the factor of `{}`", graph_.describe(sin), cos);
  }
  const Node* product = KV8_TRY(graph_.node(angles, "Mul", "the angles"));
  const bool constant_first = graph_.initializer(product->inputs[0]) != nullptr;
  const FloatConstant frequencies = KV8_TRY(
      graph_.float_constant(product->inputs[constant_first ? 0 : 1], "the inverse frequencies"));
  if (head_dim % 2 != 0 || frequencies.shape != Shape{head_dim / 2}) {
    return bad_input("the inverse frequencies have shape {}, expected half of head_dim {}",
                     shape_text(frequencies.shape), head_dim);
  }
  const Node* column = KV8_TRY(
      graph_.node(product->inputs[constant_first ? 1 : 0], "Unsqueeze", "the positions' column"));
  const auto axes = KV8_TRY(graph_.int_constant(column->inputs[1], "the positions' column"));
  if (axes != std::vector<std::int64_t>{2}) {
    return bad_input("{}: expected axes [2]", graph_.describe(*column));
  }
  const std::string positions =
      KV8_TRY(graph_.cast_to(column->inputs[0], DType::kF32, "the positions"));
  if (positions != "position_ids") {
    return bad_input("{}: expected input `position_ids`", graph_.describe(positions));
  }
  rotation_.inv_freq = frequencies.values;
  rotation_.cos = cos;
  rotation_.sin = sin;
  return {};
}

Result<std::string> AttentionMatcher::scaled_angles(const std::string& value,
                                                    std::string_view op_type, float& factor) {
  std::string wave = value;
  if (graph_.is_output_of(value, "Mul")) {
    const Node* product = KV8_TRY(graph_.node(value, "Mul", "the scaled rotation"));
    const FloatConstant constant =
        KV8_TRY(graph_.float_constant(product->inputs[1], "the rotation's attention factor"));
    if (!constant.shape.empty() || !(constant.values[0] > 0) ||
        !std::isfinite(constant.values[0])) {
      return bad_input("constant `{}`: expected one positive number, the attention factor",
                       product->inputs[1]);
    }
    factor = constant.values[0];
    wave = product->inputs[0];
  }
  const Node* node = KV8_TRY(graph_.node(wave, op_type, "the rotation"));
  return node->inputs[0];
}

Result<std::vector<float>> AttentionMatcher::scale_of(const Node& node, std::int64_t num_heads,
                                                      std::string_view what) {
  KV8_TRY(graph_.operand_is(node, 2, ""));
  const FloatConstant scale = KV8_TRY(graph_.float_constant(node.inputs[1], what));
  const bool per_head = scale.shape.size() == 1 && scale.shape[0] == num_heads;
  if (!scale.shape.empty() && !per_head) {
    return bad_input("constant `{}` has shape {}, expected [] or [{}]", node.inputs[1],
                     shape_text(scale.shape), num_heads);
  }
  if (per_head && KV8_TRY(graph_.int_attribute(node, "axis", 1)) != 1) {
    return bad_input("{}: expected axis 1, the heads, for scales per head", graph_.describe(node));
  }
  for (const float value : scale.values) {
    if (!(value > 0) || !std::isfinite(value)) {
      return bad_input("constant `{}`: value {}, expected a positive number", node.inputs[1],
                       value);
    }
  }
  return scale.values;
}

}  // namespace kv8::exec
