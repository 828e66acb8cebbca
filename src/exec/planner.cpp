#include "exec/planner.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>

#include "exec/decoder_match.h"
#include "exec/slots.h"

namespace kv8::exec {
namespace {

using graph::Initializer;

/// Writes the plan of a matched decoder. Every value gets a slot of its own; assign_slots shares
/// them afterwards.
class PlanWriter {
 public:
  PlanWriter(const DecoderMatch& match, const PlannerOptions& options)
      : match_(match), options_(options) {}

  Result<Plan> write() {
    plan_.hidden_size = static_cast<std::int32_t>(match_.hidden_size);
    plan_.vocab_size = static_cast<std::int32_t>(match_.logits.weight->tensor.shape[0]);
    plan_.num_layers = static_cast<std::int32_t>(match_.layers.size());
    plan_.num_heads = static_cast<std::int32_t>(match_.num_heads);
    plan_.num_kv_heads = static_cast<std::int32_t>(match_.num_kv_heads);
    plan_.head_dim = static_cast<std::int32_t>(match_.head_dim);
    plan_.model_dtype = match_.model_dtype;
    plan_.softmax_scale = match_.softmax_scale;
    plan_.rope_inv_freq = match_.rope_inv_freq;
    plan_.rope_attention_factor = match_.rope_attention_factor;

    plan_.input_slot = new_slot(match_.hidden_size);
    Slot hidden = plan_.input_slot;
    for (std::size_t i = 0; i < match_.layers.size(); ++i) hidden = KV8_TRY(layer(i, hidden));

    const Slot selected = new_slot(match_.hidden_size);
    plan_.steps.push_back(SelectRowsStep{hidden, selected});
    const Slot normed = norm(match_.final_norm, selected);
    plan_.logits_slot = KV8_TRY(linear({&match_.logits}, normed, kNone));
    KV8_TRY(fold_shift());
    return std::move(plan_);
  }

 private:
  Status fold_shift() {
    const bool fp8_kv = std::ranges::any_of(
        plan_.caches, [](const LayerCache& cache) { return cache.dtype == DType::kF8E4M3; });
    if (!fp8_kv || !plan_.quantizes_queries()) {
      if (options_.fit_half_scores || options_.qk_exponent_shift == 0) return {};
      return usage_error("a qk_exponent_shift of {} needs an FP8 cache and FP8 queries",
                         options_.qk_exponent_shift);
    }
    fold_exponent_shift(plan_, options_.fit_half_scores ? half_score_shift(plan_.head_dim)
                                                        : options_.qk_exponent_shift);
    return {};
  }

  Result<Slot> layer(std::size_t index, Slot hidden) {
    const LayerMatch& layer = match_.layers[index];
    const auto number = static_cast<std::int32_t>(index);
    plan_.caches.push_back(layer.cache);
    if (options_.q_dtype != DType::kF8E4M3) plan_.caches.back().q_scale.clear();

    const Slot qkv =
        KV8_TRY(linear({&layer.q, &layer.k, &layer.v}, norm(layer.input_norm, hidden), kNone));
    RopeKvWriteStep rope{qkv, new_slot(match_.num_heads * match_.head_dim), number};
    if (layer.q_norm) rope.q_norm = weight({layer.q_norm->weight});
    if (layer.k_norm) rope.k_norm = weight({layer.k_norm->weight});
    rope.norm_eps = KV8_TRY(head_norm_eps(layer));
    plan_.steps.push_back(rope);
    const Slot context = new_slot(match_.num_heads * match_.head_dim);
    plan_.steps.push_back(AttentionStep{rope.q_out, context, number});
    const Slot attended = KV8_TRY(linear({&layer.o}, context, hidden));

    const Slot gate_up =
        KV8_TRY(linear({&layer.gate, &layer.up}, norm(layer.post_attention_norm, attended), kNone));
    const Slot product = new_slot(layer.gate.weight->tensor.shape[0]);
    plan_.steps.push_back(SwiGluStep{gate_up, product});
    return linear({&layer.down}, product, attended);
  }

  static Result<float> head_norm_eps(const LayerMatch& layer) {
    if (layer.q_norm && layer.k_norm && layer.q_norm->eps != layer.k_norm->eps) {
      return unsupported("epsilon {} in q_norm and {} in k_norm, expected the same",
                         layer.q_norm->eps, layer.k_norm->eps);
    }
    if (layer.q_norm) return layer.q_norm->eps;
    return layer.k_norm ? layer.k_norm->eps : 0.0f;
  }

  Slot new_slot(std::int64_t cols) {
    plan_.slot_cols.push_back(static_cast<std::int32_t>(cols));
    return static_cast<Slot>(plan_.slot_cols.size() - 1);
  }

  Slot norm(const NormMatch& match, Slot in) {
    const Slot out = new_slot(plan_.slot_cols[static_cast<std::size_t>(in)]);
    plan_.steps.push_back(RmsNormStep{in, out, weight({match.weight}), match.eps});
    return out;
  }

  /// Products of one input, concatenated.
  Result<Slot> linear(const std::vector<const LinearMatch*>& parts, Slot in, Slot residual) {
    std::vector<const Initializer*> weights, biases;
    std::int64_t out_features = 0;
    for (const LinearMatch* part : parts) {
      weights.push_back(part->weight);
      if (part->bias != nullptr) biases.push_back(part->bias);
      out_features += part->weight->tensor.shape[0];
    }
    if (!biases.empty() && biases.size() != parts.size()) {
      return unsupported("`{}` has a bias, the products beside it have none", biases[0]->name);
    }
    KV8_TRY(one_type(weights));
    KV8_TRY(one_type(biases));
    if (out_features > std::numeric_limits<std::int32_t>::max()) {
      return bad_input("`{}` and the products beside it have {} rows", weights[0]->name,
                       out_features);
    }
    LinearStep step{in, new_slot(out_features), weight(weights)};
    if (!biases.empty()) step.bias = weight(biases);
    step.residual = residual;
    plan_.steps.push_back(step);
    return step.out;
  }

  static Status one_type(const std::vector<const Initializer*>& parts) {
    for (const Initializer* part : parts) {
      if (part->tensor.dtype != parts[0]->tensor.dtype) {
        return unsupported("`{}` is {} and `{}` is {}, expected one type", parts[0]->name,
                           dtype_name(parts[0]->tensor.dtype), part->name,
                           dtype_name(part->tensor.dtype));
      }
    }
    return {};
  }

  /// Index of the weight that these row blocks make, one for the same blocks.
  WeightIndex weight(const std::vector<const Initializer*>& parts) {
    const auto [found, is_new] =
        indices_.try_emplace(parts, static_cast<WeightIndex>(plan_.weights.size()));
    if (!is_new) return found->second;
    PlanWeight weight;
    weight.dtype = parts[0]->tensor.dtype;
    weight.shape = parts[0]->tensor.shape;
    weight.shape[0] = 0;
    for (const Initializer* part : parts) {
      weight.name += (weight.name.empty() ? "" : "+") + part->name;
      weight.shape[0] += part->tensor.shape[0];
      weight.parts.push_back(part->tensor);
    }
    plan_.weights.push_back(std::move(weight));
    return found->second;
  }

  const DecoderMatch& match_;
  const PlannerOptions& options_;
  Plan plan_;
  std::map<std::vector<const Initializer*>, WeightIndex> indices_;
};

/// The positions that a cache may hold without its keys going stale (dynamic RoPE scaling).
Result<std::int32_t> max_positions(const graph::Graph& graph) {
  const auto found = graph.metadata.find("kv8.max_positions");
  if (found == graph.metadata.end()) return 0;
  const std::string& text = found->second;
  std::int32_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || value < 1) {
    return bad_input("metadata kv8.max_positions is \"{}\", expected a positive number", text);
  }
  return value;
}

}  // namespace

Result<Plan> plan_graph(const graph::Graph& graph, const PlannerOptions& options) {
  KV8_CHECK(options.q_dtype == DType::kF8E4M3 || options.q_dtype == DType::kF16, "q_dtype {}",
            dtype_name(options.q_dtype));
  KV8_TRY(graph::validate(graph));
  const DecoderMatch match = KV8_TRY(match_decoder(graph));
  Plan plan = KV8_TRY(PlanWriter(match, options).write());
  plan.max_positions = KV8_TRY(max_positions(graph));
  assign_slots(plan);
  KV8_TRY(validate(plan));
  return plan;
}

}  // namespace kv8::exec
