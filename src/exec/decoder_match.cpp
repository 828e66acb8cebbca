#include "exec/decoder_match.h"

#include <algorithm>

#include "exec/attention_match.h"

namespace kv8::exec {
namespace {

using graph::Attribute;
using graph::Node;

class DecoderMatcher {
 public:
  explicit DecoderMatcher(const graph::Graph& graph) : graph_(graph) {}

  Result<DecoderMatch> run() {
    KV8_TRY(check_inputs());
    std::string hidden = KV8_TRY(match_logits("logits"));
    for (std::size_t i = match_.layers.size(); i-- > 0;) {
      const Status status = match_layer(i, hidden);
      if (!status.ok()) return status.error().within(fmt::format("layer {}", i));
      hidden = match_.layers[i].input;
    }
    const std::string embeds =
        KV8_TRY(graph_.cast_to(hidden, DType::kF32, "the embeddings before layer 0"));
    if (embeds != "inputs_embeds") {
      return bad_input("{}: expected input `inputs_embeds` before layer 0",
                       graph_.describe(embeds));
    }
    match_.rope_inv_freq = attention_.rotation().inv_freq;
    match_.rope_attention_factor = attention_.rotation().attention_factor;
    KV8_TRY(graph_.all_nodes_matched());
    KV8_TRY(check_outputs());
    return std::move(match_);
  }

 private:
  Status check_inputs() {
    const std::size_t count = graph_.graph().inputs.size();
    if (graph_.input("input_ids") != nullptr) {
      return unsupported(
          "this graph (input `input_ids`) was made for ONNX Runtime; export without --portable");
    }
    const graph::ValueInfo* embeds = KV8_TRY(input("inputs_embeds", DType::kF16, 3));
    KV8_TRY(input("position_ids", DType::kI64, 2));
    KV8_TRY(input("cache_write_index", DType::kI64, 1));
    KV8_TRY(input("nonpad_kv_seqlen", DType::kI64, 1));
    match_.hidden_size = KV8_TRY(fixed_dim(*embeds, 2));
    if (count < 6 || count % 2 != 0) {
      return bad_input("{} inputs, expected 4 and two caches for every layer", count);
    }
    match_.layers.resize((count - 4) / 2);
    return {};
  }

  Result<const graph::ValueInfo*> input(const std::string& name, DType dtype, std::size_t rank) {
    const graph::ValueInfo* found = graph_.input(name);
    if (found == nullptr) return bad_input("input `{}` is missing", name);
    if (found->dtype != dtype || found->shape.size() != rank) {
      return bad_input("input `{}` is {} with {} dimensions, expected {} with {}", name,
                       dtype_name(found->dtype), found->shape.size(), dtype_name(dtype), rank);
    }
    return found;
  }

  static Result<std::int64_t> fixed_dim(const graph::ValueInfo& value, std::size_t index) {
    const auto* size = std::get_if<std::int64_t>(&value.shape[index]);
    if (size == nullptr || *size < 1) {
      return bad_input("input `{}`: expected a number as dimension {}", value.name, index);
    }
    return *size;
  }

  Status check_outputs() const {
    const std::vector<graph::ValueInfo>& outputs = graph_.graph().outputs;
    if (outputs.size() != 1 + 2 * match_.layers.size()) {
      return bad_input("{} outputs, expected logits and {} caches", outputs.size(),
                       2 * match_.layers.size());
    }
    for (std::size_t i = 0; i < match_.layers.size(); ++i) {
      for (const char* what : {"key", "value"}) {
        const std::string name = fmt::format("present.{}.{}", i, what);
        const auto found = std::ranges::find(outputs, name, &graph::ValueInfo::name);
        if (found == outputs.end()) return bad_input("output `{}` is missing", name);
        if (found->dtype != match_.layers[i].cache.dtype) {
          return bad_input("output `{}` is {}, expected {}", name, dtype_name(found->dtype),
                           dtype_name(match_.layers[i].cache.dtype));
        }
      }
    }
    return {};
  }

  /// The product and the norm after the last layer. Gives the last layer's output.
  Result<std::string> match_logits(const std::string& output) {
    if (std::ranges::find(graph_.graph().outputs, output, &graph::ValueInfo::name) ==
        graph_.graph().outputs.end()) {
      return bad_input("output `{}` is missing", output);
    }
    match_.logits = KV8_TRY(linear(output, "the logits", match_.hidden_size));
    if (match_.logits.bias != nullptr) {
      return unsupported("{}: expected no bias on the logits", graph_.describe(output));
    }
    match_.final_norm = KV8_TRY(norm(match_.logits.input, match_.hidden_size, "the final norm"));
    std::string hidden = match_.final_norm.input;
    if (graph_.is_output_of(hidden, "Gather")) {
      const Node* gather = KV8_TRY(graph_.node(hidden, "Gather", "the last token's hidden state",
                                               {{"axis", Attribute{std::int64_t{1}}, true}}));
      const auto index = KV8_TRY(graph_.int_constant(gather->inputs[1], "the last token's index"));
      if (index != std::vector<std::int64_t>{-1}) {
        return bad_input("{}: expected index [-1], the last token", graph_.describe(*gather));
      }
      hidden = gather->inputs[0];
    }
    return hidden;
  }

  Status match_layer(std::size_t index, const std::string& output) {
    LayerMatch& layer = match_.layers[index];
    const std::int64_t hidden = match_.hidden_size;

    // hidden = attended + down(swish(gate(m)) * up(m)), m = norm(attended)
    const auto [attended, mlp] = KV8_TRY(residual(output, "the sum after the MLP"));
    layer.down = KV8_TRY(linear(mlp, "down_proj", kAnyWidth));
    KV8_TRY(out_features(layer.down, hidden, "down_proj"));
    const std::int64_t inner = layer.down.weight->tensor.shape[1];
    const Node* product = KV8_TRY(graph_.node(layer.down.input, "Mul", "the MLP's gated product"));
    const std::size_t gate = graph_.is_output_of(product->inputs[1], "Swish") ? 1 : 0;
    const Node* swish = KV8_TRY(graph_.node(product->inputs[gate], "Swish", "the MLP's activation",
                                            {{"alpha", Attribute{1.0f}}}));
    layer.gate = KV8_TRY(linear(swish->inputs[0], "gate_proj", hidden));
    layer.up = KV8_TRY(linear(product->inputs[1 - gate], "up_proj", hidden));
    KV8_TRY(out_features(layer.gate, inner, "gate_proj"));
    KV8_TRY(out_features(layer.up, inner, "up_proj"));
    KV8_TRY(same_input(layer.gate, layer.up, "gate_proj and up_proj"));
    layer.post_attention_norm = KV8_TRY(norm(layer.gate.input, hidden, "post_attention_layernorm"));
    if (layer.post_attention_norm.input != attended) {
      return bad_input("{}: expected the norm of `{}`", graph_.describe(layer.gate.input),
                       attended);
    }
    return match_attention(index, attended);
  }

  Status match_attention(std::size_t index, const std::string& attended) {
    LayerMatch& layer = match_.layers[index];
    const std::int64_t hidden = match_.hidden_size;

    // attended = input + o(attention(norm(input)))
    const auto [input, projected] = KV8_TRY(residual(attended, "the sum after attention"));
    layer.input = input;
    layer.o = KV8_TRY(linear(projected, "o_proj", kAnyWidth));
    KV8_TRY(out_features(layer.o, hidden, "o_proj"));
    const AttentionMatch attention = KV8_TRY(attention_.match(index, layer.o.input));
    layer.cache = attention.cache;
    KV8_TRY(same_everywhere(index, attention));

    layer.q = KV8_TRY(linear(attention.q.rows, "q_proj", hidden));
    layer.k = KV8_TRY(linear(attention.k.rows, "k_proj", hidden));
    layer.v = KV8_TRY(linear(attention.v.rows, "v_proj", hidden));
    const std::int64_t q_width = match_.num_heads * match_.head_dim;
    const std::int64_t kv_width = match_.num_kv_heads * match_.head_dim;
    KV8_TRY(out_features(layer.q, q_width, "q_proj"));
    KV8_TRY(out_features(layer.k, kv_width, "k_proj"));
    KV8_TRY(out_features(layer.v, kv_width, "v_proj"));
    if (layer.o.weight->tensor.shape[1] != q_width) {
      return bad_input("constant `{}` has shape {}, expected {} columns for o_proj",
                       layer.o.weight->name, shape_text(layer.o.weight->tensor.shape), q_width);
    }
    KV8_TRY(head_norm(attention.q.norm, "q_norm", layer.q_norm));
    KV8_TRY(head_norm(attention.k.norm, "k_norm", layer.k_norm));
    KV8_TRY(same_input(layer.q, layer.k, "q_proj and k_proj"));
    KV8_TRY(same_input(layer.q, layer.v, "q_proj and v_proj"));
    layer.input_norm = KV8_TRY(norm(layer.q.input, hidden, "input_layernorm"));
    if (layer.input_norm.input != layer.input) {
      return bad_input("{}: expected the norm of `{}`", graph_.describe(layer.q.input),
                       layer.input);
    }
    return {};
  }

  /// The last layer, matched first, sets the geometry; the others must agree.
  Status same_everywhere(std::size_t index, const AttentionMatch& attention) {
    if (index + 1 == match_.layers.size()) {
      match_.num_heads = attention.num_heads;
      match_.num_kv_heads = attention.num_kv_heads;
      match_.head_dim = attention.head_dim;
      match_.softmax_scale = attention.softmax_scale;
      match_.model_dtype = attention.model_dtype;
    }
    if (match_.num_heads != attention.num_heads || match_.num_kv_heads != attention.num_kv_heads ||
        match_.head_dim != attention.head_dim || match_.softmax_scale != attention.softmax_scale ||
        match_.model_dtype != attention.model_dtype) {
      return unsupported(
          "{} heads, {} KV heads, head_dim {}, scale {}, type {}; the last layer has {}, {}, {}, "
          "{}, {}: expected the same in all layers",
          attention.num_heads, attention.num_kv_heads, attention.head_dim, attention.softmax_scale,
          dtype_name(attention.model_dtype), match_.num_heads, match_.num_kv_heads, match_.head_dim,
          match_.softmax_scale, dtype_name(match_.model_dtype));
    }
    return {};
  }

  Status head_norm(const std::optional<std::string>& value, std::string_view what,
                   std::optional<NormMatch>& match) {
    if (value) match = KV8_TRY(norm(*value, match_.head_dim, what));
    return {};
  }

  struct Residual {
    std::string carried, added;
  };
  /// Add(hidden state, product): the product is the operand that a linear layer gives.
  Result<Residual> residual(const std::string& value, std::string_view what) {
    const Node* add = KV8_TRY(graph_.node(value, "Add", what));
    if (is_linear(add->inputs[1])) return Residual{add->inputs[0], add->inputs[1]};
    return Residual{add->inputs[1], add->inputs[0]};
  }

  bool is_linear(const std::string& value) const {
    if (graph_.is_output_of(value, "MatMul")) return true;
    const Node* add = graph_.peek(value, "Add");
    return add != nullptr && graph_.is_output_of(add->inputs[0], "MatMul") &&
           is_constant(add->inputs[1]);
  }

  bool is_constant(const std::string& value) const {
    const Node* cast = graph_.peek(value, "Cast");
    return graph_.initializer(cast == nullptr ? value : cast->inputs[0]) != nullptr;
  }

  static constexpr std::int64_t kAnyWidth = -1;

  Result<LinearMatch> linear(const std::string& value, std::string_view what,
                             std::int64_t in_features) {
    LinearMatch match;
    std::string product = value, bias;
    if (graph_.is_output_of(value, "Add")) {
      const Node* add = KV8_TRY(graph_.node(value, "Add", fmt::format("the bias of {}", what)));
      product = add->inputs[0];
      bias = add->inputs[1];
    }
    const Node* matmul =
        KV8_TRY(graph_.node(product, "MatMul", fmt::format("the product of {}", what)));
    match.input = matmul->inputs[0];
    const std::string stored =
        KV8_TRY(graph_.transpose(matmul->inputs[1], {1, 0}, fmt::format("the weight of {}", what)));
    match.weight = KV8_TRY(graph_.weight(stored, fmt::format("the weight of {}", what)));
    const Shape& shape = match.weight->tensor.shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 ||
        (in_features != kAnyWidth && shape[1] != in_features)) {
      return bad_input("constant `{}` has shape {}, expected [out, {}] for the weight of {}",
                       match.weight->name, shape_text(shape),
                       in_features == kAnyWidth ? "in" : std::to_string(in_features), what);
    }
    if (!bias.empty()) {
      match.bias = KV8_TRY(graph_.weight(bias, fmt::format("the bias of {}", what)));
      if (match.bias->tensor.shape != Shape{shape[0]}) {
        return bad_input("constant `{}` has shape {}, expected [{}] for the bias of {}",
                         match.bias->name, shape_text(match.bias->tensor.shape), shape[0], what);
      }
    }
    return match;
  }

  static Status out_features(const LinearMatch& match, std::int64_t expected,
                             std::string_view what) {
    const Shape& shape = match.weight->tensor.shape;
    if (shape[0] != expected) {
      return bad_input("constant `{}` has shape {}, expected {} rows for {}", match.weight->name,
                       shape_text(shape), expected, what);
    }
    return {};
  }

  Status same_input(const LinearMatch& a, const LinearMatch& b, std::string_view what) const {
    if (a.input != b.input) {
      return bad_input("{}: expected `{}`, one input for {}", graph_.describe(b.input), a.input,
                       what);
    }
    return {};
  }

  Result<NormMatch> norm(const std::string& value, std::int64_t size, std::string_view what) {
    const Node* node = KV8_TRY(graph_.node(value, "RMSNormalization", what,
                                           {{"axis", Attribute{std::int64_t{-1}}},
                                            {"epsilon", std::nullopt, true},
                                            {"stash_type", Attribute{std::int64_t{1}}}}));
    NormMatch match;
    match.input = node->inputs[0];
    match.weight = KV8_TRY(graph_.weight(node->inputs[1], what));
    if (match.weight->tensor.shape != Shape{size}) {
      return bad_input("constant `{}` has shape {}, expected [{}] for {}", match.weight->name,
                       shape_text(match.weight->tensor.shape), size, what);
    }
    match.eps = KV8_TRY(graph_.float_attribute(*node, "epsilon"));
    if (match.eps < 0) return bad_input("{}: epsilon {}", graph_.describe(*node), match.eps);
    return match;
  }

  GraphMatcher graph_;
  AttentionMatcher attention_{graph_};
  DecoderMatch match_;
};

}  // namespace

Result<DecoderMatch> match_decoder(const graph::Graph& graph) {
  return DecoderMatcher(graph).run();
}

}  // namespace kv8::exec
