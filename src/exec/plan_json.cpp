#include "exec/plan_json.h"

#include <charconv>
#include <limits>

#include "base/json.h"

namespace kv8::exec {
namespace {

constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();

struct StepWriter {
  Json operator()(const RmsNormStep& s) const {
    return {{"op", "rms_norm"}, {"in", s.in}, {"out", s.out}, {"weight", s.weight}, {"eps", s.eps}};
  }
  Json operator()(const LinearStep& s) const {
    return {{"op", "linear"},     {"in", s.in},     {"out", s.out},
            {"weight", s.weight}, {"bias", s.bias}, {"residual", s.residual}};
  }
  Json operator()(const RopeKvWriteStep& s) const {
    return {{"op", "rope_kv_write"}, {"qkv", s.qkv},       {"q_out", s.q_out},
            {"layer", s.layer},      {"q_norm", s.q_norm}, {"k_norm", s.k_norm},
            {"norm_eps", s.norm_eps}};
  }
  Json operator()(const AttentionStep& s) const {
    return {{"op", "attention"}, {"q", s.q}, {"out", s.out}, {"layer", s.layer}};
  }
  Json operator()(const SwiGluStep& s) const {
    return {{"op", "swiglu"}, {"gate_up", s.gate_up}, {"out", s.out}};
  }
  Json operator()(const SelectRowsStep& s) const {
    return {{"op", "select_rows"}, {"in", s.in}, {"out", s.out}};
  }
};

Json cache_to_json(const LayerCache& cache) {
  return {{"dtype", dtype_name(cache.dtype)},
          {"k_scale", cache.k_scale},
          {"v_scale", cache.v_scale},
          {"q_scale", cache.q_scale}};
}

Json tuned_to_json(const TunedProduct& tuned) {
  std::string words;
  for (const std::uint64_t word : tuned.algorithm) words += fmt::format("{:016x}", word);
  return {{"rows", tuned.rows},       {"in", tuned.in},     {"out", tuned.out},
          {"f32_out", tuned.f32_out}, {"bias", tuned.bias}, {"residual", tuned.residual},
          {"algorithm", words}};
}

/// Reads the fields of one JSON object; `source` is the file and the place in it.
class Fields {
 public:
  Fields(const Json& object, std::string source) : object_(object), source_(std::move(source)) {}

  const std::string& source() const { return source_; }

  Result<std::int32_t> integer(std::string_view key, std::int64_t min = 0) const {
    return static_cast<std::int32_t>(KV8_TRY(json_int(object_, key, source_, min, kMaxInt)));
  }
  Result<float> number(std::string_view key) const {
    return static_cast<float>(KV8_TRY(json_number(object_, key, source_)));
  }
  Result<std::string> text(std::string_view key) const {
    return json_string(object_, key, source_);
  }
  Result<bool> flag(std::string_view key) const {
    const auto found = object_.is_object() ? object_.find(key) : object_.end();
    if (!object_.is_object() || found == object_.end() || !found->is_boolean()) {
      return bad_input("{}: expected true or false as field `{}`", source_, key);
    }
    return found->get<bool>();
  }
  Result<DType> dtype(std::string_view key) const {
    const Result<DType> value = dtype_from_name(KV8_TRY(text(key)));
    if (!value.ok()) return value.error().within(source_);
    return value;
  }
  Result<const Json*> array(std::string_view key) const {
    const auto found = object_.is_object() ? object_.find(key) : object_.end();
    if (!object_.is_object() || found == object_.end() || !found->is_array()) {
      return bad_input("{}: expected a list as field `{}`", source_, key);
    }
    return &*found;
  }
  Result<std::vector<float>> numbers(std::string_view key) const {
    std::vector<float> values;
    for (const Json& value : *KV8_TRY(array(key))) {
      if (!value.is_number()) return bad_input("{}: expected numbers in `{}`", source_, key);
      values.push_back(value.get<float>());
    }
    return values;
  }
  Result<std::vector<std::int64_t>> integers(std::string_view key) const {
    std::vector<std::int64_t> values;
    for (const Json& value : *KV8_TRY(array(key))) {
      const bool huge = value.is_number_unsigned() && value.get<std::uint64_t>() > kMaxInt;
      if (!value.is_number_integer() || huge || value.get<std::int64_t>() < 0 ||
          value.get<std::int64_t>() > kMaxInt) {
        return bad_input("{}: expected whole numbers from 0 to {} in `{}`", source_, kMaxInt, key);
      }
      values.push_back(value.get<std::int64_t>());
    }
    return values;
  }
  /// One entry of a list, with its place in the source.
  static Fields entry(const Json& list, std::size_t index, std::string_view key,
                      std::string_view source) {
    return {list[index], fmt::format("{}: {}[{}]", source, key, index)};
  }

 private:
  const Json& object_;
  std::string source_;
};

Result<TunedProduct> tuned_from_json(const Fields& f) {
  TunedProduct tuned;
  tuned.rows = KV8_TRY(f.integer("rows", 1));
  tuned.in = KV8_TRY(f.integer("in", 1));
  tuned.out = KV8_TRY(f.integer("out", 1));
  tuned.f32_out = KV8_TRY(f.flag("f32_out"));
  tuned.bias = KV8_TRY(f.flag("bias"));
  tuned.residual = KV8_TRY(f.flag("residual"));
  const std::string words = KV8_TRY(f.text("algorithm"));
  if (words.size() != 16 * tuned.algorithm.size()) {
    return bad_input("{}: field `algorithm` has {} digits, expected {}", f.source(), words.size(),
                     16 * tuned.algorithm.size());
  }
  for (std::size_t i = 0; i < tuned.algorithm.size(); ++i) {
    const char* const first = words.data() + 16 * i;
    const auto [end, failure] = std::from_chars(first, first + 16, tuned.algorithm[i], 16);
    if (failure != std::errc() || end != first + 16) {
      return bad_input("{}: field `algorithm` is not hexadecimal", f.source());
    }
  }
  return tuned;
}

Result<Step> step_from_json(const Fields& f) {
  const std::string op = KV8_TRY(f.text("op"));
  if (op == "rms_norm") {
    return Step{RmsNormStep{KV8_TRY(f.integer("in")), KV8_TRY(f.integer("out")),
                            KV8_TRY(f.integer("weight")), KV8_TRY(f.number("eps"))}};
  }
  if (op == "linear") {
    return Step{LinearStep{KV8_TRY(f.integer("in")), KV8_TRY(f.integer("out")),
                           KV8_TRY(f.integer("weight")), KV8_TRY(f.integer("bias", kNone)),
                           KV8_TRY(f.integer("residual", kNone))}};
  }
  if (op == "rope_kv_write") {
    return Step{RopeKvWriteStep{KV8_TRY(f.integer("qkv")), KV8_TRY(f.integer("q_out")),
                                KV8_TRY(f.integer("layer")), KV8_TRY(f.integer("q_norm", kNone)),
                                KV8_TRY(f.integer("k_norm", kNone)),
                                KV8_TRY(f.number("norm_eps"))}};
  }
  if (op == "attention") {
    return Step{AttentionStep{KV8_TRY(f.integer("q")), KV8_TRY(f.integer("out")),
                              KV8_TRY(f.integer("layer"))}};
  }
  if (op == "swiglu") {
    return Step{SwiGluStep{KV8_TRY(f.integer("gate_up")), KV8_TRY(f.integer("out"))}};
  }
  if (op == "select_rows") {
    return Step{SelectRowsStep{KV8_TRY(f.integer("in")), KV8_TRY(f.integer("out"))}};
  }
  return bad_input("{}: step `{}` is not known", f.source(), op);
}

Status read_geometry(const Fields& f, Plan& plan) {
  plan.hidden_size = KV8_TRY(f.integer("hidden_size"));
  plan.vocab_size = KV8_TRY(f.integer("vocab_size"));
  plan.num_layers = KV8_TRY(f.integer("num_layers"));
  plan.num_heads = KV8_TRY(f.integer("num_heads"));
  plan.num_kv_heads = KV8_TRY(f.integer("num_kv_heads"));
  plan.head_dim = KV8_TRY(f.integer("head_dim"));
  plan.model_dtype = KV8_TRY(f.dtype("model_dtype"));
  plan.softmax_scale = KV8_TRY(f.number("softmax_scale"));
  plan.rope_inv_freq = KV8_TRY(f.numbers("rope_inv_freq"));
  plan.rope_attention_factor = KV8_TRY(f.number("rope_attention_factor"));
  plan.max_positions = KV8_TRY(f.integer("max_positions"));
  plan.qk_exponent_shift = KV8_TRY(f.integer("qk_exponent_shift"));
  plan.input_slot = KV8_TRY(f.integer("input_slot"));
  plan.logits_slot = KV8_TRY(f.integer("logits_slot"));
  const std::int32_t page_tokens = KV8_TRY(f.integer("kv_page_tokens"));
  if (page_tokens != kPageTokens) {
    return unsupported("{}: built for KV pages of {} tokens, this kv8 has {}; rebuild the engine",
                       f.source(), page_tokens, kPageTokens);
  }
  return {};
}

Result<LayerCache> cache_from_json(const Fields& f) {
  LayerCache cache;
  cache.dtype = KV8_TRY(f.dtype("dtype"));
  cache.k_scale = KV8_TRY(f.numbers("k_scale"));
  cache.v_scale = KV8_TRY(f.numbers("v_scale"));
  cache.q_scale = KV8_TRY(f.numbers("q_scale"));
  return cache;
}

/// Names, types and shapes; where they lie must be where this version puts them.
Status read_weights(const Json& list, std::span<const std::byte> bytes,
                    const std::shared_ptr<const void>& owner, std::string_view source, Plan& plan) {
  std::vector<std::int64_t> offsets;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Fields f = Fields::entry(list, i, "weights", source);
    PlanWeight weight;
    weight.name = KV8_TRY(f.text("name"));
    weight.dtype = KV8_TRY(f.dtype("dtype"));
    weight.shape = KV8_TRY(f.integers("shape"));
    offsets.push_back(KV8_TRY(
        json_int(list[i], "offset", f.source(), 0, std::numeric_limits<std::int64_t>::max())));
    plan.weights.push_back(std::move(weight));
  }
  const WeightLayout layout = KV8_TRY(layout_weights(plan.weights));
  if (layout.total != bytes.size()) {
    return bad_input("{}: weights of {} bytes in a section of {}", source, layout.total,
                     bytes.size());
  }
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    PlanWeight& weight = plan.weights[i];
    if (static_cast<std::uint64_t>(offsets[i]) != layout.offsets[i]) {
      return bad_input("{}: weight `{}` at offset {}, expected {}", source, weight.name, offsets[i],
                       layout.offsets[i]);
    }
    const auto view = bytes.subspan(layout.offsets[i], layout.sizes[i]);
    weight.parts.push_back({weight.dtype, weight.shape, view, owner});
  }
  return {};
}

}  // namespace

Result<WeightLayout> layout_weights(const std::vector<PlanWeight>& weights) {
  constexpr std::uint64_t kMaxTotal = std::uint64_t{1} << 62;
  WeightLayout layout;
  for (const PlanWeight& weight : weights) {
    const auto elements = static_cast<std::uint64_t>(KV8_TRY(checked_num_elements(weight.shape)));
    const std::uint64_t element_bytes = dtype_size(weight.dtype);
    if (elements > (kMaxTotal - layout.total) / element_bytes) {
      return bad_input("weight `{}` of shape {} is too large", weight.name,
                       shape_text(weight.shape));
    }
    layout.offsets.push_back(layout.total);
    layout.sizes.push_back(elements * element_bytes);
    layout.total += layout.sizes.back();
    layout.total = (layout.total + kWeightAlignment - 1) / kWeightAlignment * kWeightAlignment;
  }
  return layout;
}

Result<std::string> plan_to_json(const Plan& plan) {
  const WeightLayout layout = KV8_TRY(layout_weights(plan.weights));
  Json json = {{"hidden_size", plan.hidden_size},
               {"vocab_size", plan.vocab_size},
               {"num_layers", plan.num_layers},
               {"num_heads", plan.num_heads},
               {"num_kv_heads", plan.num_kv_heads},
               {"head_dim", plan.head_dim},
               {"model_dtype", dtype_name(plan.model_dtype)},
               {"softmax_scale", plan.softmax_scale},
               {"rope_inv_freq", plan.rope_inv_freq},
               {"rope_attention_factor", plan.rope_attention_factor},
               {"max_positions", plan.max_positions},
               {"qk_exponent_shift", plan.qk_exponent_shift},
               {"kv_page_tokens", kPageTokens},
               {"caches", Json::array()},
               {"weights", Json::array()},
               {"slot_cols", plan.slot_cols},
               {"input_slot", plan.input_slot},
               {"logits_slot", plan.logits_slot},
               {"steps", Json::array()}};
  for (const LayerCache& cache : plan.caches) json["caches"].push_back(cache_to_json(cache));
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const PlanWeight& weight = plan.weights[i];
    json["weights"].push_back({{"name", weight.name},
                               {"dtype", dtype_name(weight.dtype)},
                               {"shape", weight.shape},
                               {"offset", layout.offsets[i]}});
  }
  for (const Step& step : plan.steps) json["steps"].push_back(std::visit(StepWriter{}, step));
  if (!plan.tuned.empty()) {
    json["tuned_library"] = plan.tuned_library;
    json["tuned"] = Json::array();
    for (const TunedProduct& tuned : plan.tuned) json["tuned"].push_back(tuned_to_json(tuned));
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Plan> plan_from_json(std::string_view text, std::span<const std::byte> weights,
                            const std::shared_ptr<const void>& owner, std::string_view source) {
  const Json json = KV8_TRY(parse_json(text, source));
  const Fields fields(json, std::string(source));
  Plan plan;
  KV8_TRY(read_geometry(fields, plan));
  for (const std::int64_t cols : KV8_TRY(fields.integers("slot_cols"))) {
    plan.slot_cols.push_back(static_cast<std::int32_t>(cols));
  }
  const Json& caches = *KV8_TRY(fields.array("caches"));
  for (std::size_t i = 0; i < caches.size(); ++i) {
    plan.caches.push_back(KV8_TRY(cache_from_json(Fields::entry(caches, i, "caches", source))));
  }
  KV8_TRY(read_weights(*KV8_TRY(fields.array("weights")), weights, owner, source, plan));
  const Json& steps = *KV8_TRY(fields.array("steps"));
  for (std::size_t i = 0; i < steps.size(); ++i) {
    plan.steps.push_back(KV8_TRY(step_from_json(Fields::entry(steps, i, "steps", source))));
  }
  if (json.contains("tuned")) {
    plan.tuned_library = KV8_TRY(fields.text("tuned_library"));
    const Json& tuned = *KV8_TRY(fields.array("tuned"));
    for (std::size_t i = 0; i < tuned.size(); ++i) {
      plan.tuned.push_back(KV8_TRY(tuned_from_json(Fields::entry(tuned, i, "tuned", source))));
    }
  }
  const Status status = validate(plan);
  if (!status.ok()) return status.error().within(source);
  return plan;
}

}  // namespace kv8::exec
