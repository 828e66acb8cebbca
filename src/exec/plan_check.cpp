#include "exec/plan_check.h"

#include <cmath>

namespace kv8::exec {
namespace {

// Bounds far above any model, so that products of two of these numbers stay below 2^62.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 26;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 20;

/// Which rows of the batch a slot holds.
enum class Rows { kNothing, kAll, kSelected };

bool is_weight_type(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

Status check_range(std::int64_t value, std::int64_t max, std::string_view name) {
  if (value < 1 || value > max) {
    return bad_input("{} is {}, expected 1 to {}", name, value, max);
  }
  return {};
}

Status check_geometry(const Plan& plan) {
  KV8_TRY(check_range(plan.hidden_size, kMaxWidth, "hidden_size"));
  KV8_TRY(check_range(plan.vocab_size, kMaxWidth, "vocab_size"));
  KV8_TRY(check_range(plan.num_layers, kMaxCount, "num_layers"));
  KV8_TRY(check_range(plan.num_heads, kMaxCount, "num_heads"));
  KV8_TRY(check_range(plan.num_kv_heads, plan.num_heads, "num_kv_heads"));
  KV8_TRY(check_range(plan.head_dim, 1024, "head_dim"));
  if (plan.head_dim % 2 != 0)
    return bad_input("head_dim is {}, expected an even number", plan.head_dim);
  if (plan.num_heads % plan.num_kv_heads != 0) {
    return bad_input("{} heads are not a multiple of {} KV heads", plan.num_heads,
                     plan.num_kv_heads);
  }
  KV8_TRY(check_range((std::int64_t{plan.num_heads} + 2 * plan.num_kv_heads) * plan.head_dim,
                      kMaxWidth, "columns of Q, K and V"));
  if (plan.model_dtype != DType::kF16 && plan.model_dtype != DType::kBF16) {
    return bad_input("the model's type is {}, expected F16 or BF16", dtype_name(plan.model_dtype));
  }
  if (!(plan.softmax_scale > 0) || !std::isfinite(plan.softmax_scale)) {
    return bad_input("the softmax scale is {}, expected a positive number", plan.softmax_scale);
  }
  if (!(plan.rope_attention_factor > 0) || !std::isfinite(plan.rope_attention_factor)) {
    return bad_input("the RoPE attention factor is {}, expected a positive number",
                     plan.rope_attention_factor);
  }
  if (plan.rope_inv_freq.size() != static_cast<std::size_t>(plan.head_dim / 2)) {
    return bad_input("{} RoPE frequencies, expected head_dim / 2 = {}", plan.rope_inv_freq.size(),
                     plan.head_dim / 2);
  }
  for (const float frequency : plan.rope_inv_freq) {
    if (!std::isfinite(frequency)) return bad_input("a RoPE frequency is {}", frequency);
  }
  if (plan.max_positions < 0) return bad_input("max_positions is {}", plan.max_positions);
  return {};
}

Status check_cache(const LayerCache& cache, std::int32_t num_kv_heads) {
  if (cache.dtype == DType::kF16) {
    if (!cache.k_scale.empty() || !cache.v_scale.empty() || !cache.q_scale.empty()) {
      return bad_input("an FP16 cache with scales");
    }
    return {};
  }
  if (cache.dtype != DType::kF8E4M3) {
    return bad_input("cache type {}, expected F16 or F8_E4M3", dtype_name(cache.dtype));
  }
  KV8_TRY(check_scales(cache.k_scale, num_kv_heads, "k_scale"));
  KV8_TRY(check_scales(cache.v_scale, num_kv_heads, "v_scale"));
  if (cache.k_scale.size() != cache.v_scale.size()) {
    return bad_input("{} K scales and {} V scales, expected as many", cache.k_scale.size(),
                     cache.v_scale.size());
  }
  if (!cache.q_scale.empty()) KV8_TRY(check_scales(cache.q_scale, 1, "q_scale"));
  return {};
}

Status check_weight(const PlanWeight& weight) {
  if (!is_weight_type(weight.dtype)) {
    return unsupported("type {}, expected F32, F16 or BF16", dtype_name(weight.dtype));
  }
  if (weight.shape.empty() || weight.shape.size() > 2) {
    return bad_input("shape {}, expected one or two dimensions", shape_text(weight.shape));
  }
  for (const std::int64_t size : weight.shape) KV8_TRY(check_range(size, kMaxWidth, "a dimension"));
  const std::uint64_t expected =
      static_cast<std::uint64_t>(KV8_TRY(checked_num_elements(weight.shape))) *
      dtype_size(weight.dtype);
  std::uint64_t found = 0;
  for (const TensorView& part : weight.parts) {
    if (part.dtype != weight.dtype) return bad_input("parts of different types");
    found += part.bytes.size();
  }
  if (found != expected) {
    return bad_input("{} bytes, expected {} for {} of {}", found, expected,
                     shape_text(weight.shape), dtype_name(weight.dtype));
  }
  return {};
}

/// Follows the steps and remembers what every slot holds.
class StepChecker {
 public:
  explicit StepChecker(const Plan& plan)
      : plan_(plan), rows_(plan.slot_cols.size(), Rows::kNothing) {}

  Status run() {
    KV8_TRY(slot_exists(plan_.input_slot));
    rows_[static_cast<std::size_t>(plan_.input_slot)] = Rows::kAll;
    KV8_TRY(columns(plan_.input_slot, plan_.hidden_size));
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      const Status status =
          std::visit([this](const auto& step) { return check(step); }, plan_.steps[i]);
      if (!status.ok()) return status.error().within(fmt::format("step {}", i));
    }
    if (written_layers_ != plan_.num_layers || attended_layers_ != plan_.num_layers) {
      return bad_input("steps for {} of {} layers", attended_layers_, plan_.num_layers);
    }
    KV8_TRY(slot_exists(plan_.logits_slot));
    if (rows_of(plan_.logits_slot) != Rows::kSelected) {
      return bad_input("no step writes the logits of selected rows");
    }
    KV8_TRY(columns(plan_.logits_slot, plan_.vocab_size));
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i] == Rows::kNothing) return bad_input("slot {} is never written", i);
    }
    return {};
  }

 private:
  std::int64_t q_cols() const { return std::int64_t{plan_.num_heads} * plan_.head_dim; }
  std::int64_t qkv_cols() const {
    return q_cols() + std::int64_t{2} * plan_.num_kv_heads * plan_.head_dim;
  }
  Rows rows_of(Slot slot) const { return rows_[static_cast<std::size_t>(slot)]; }
  std::int64_t cols_of(Slot slot) const { return plan_.slot_cols[static_cast<std::size_t>(slot)]; }

  Status slot_exists(Slot slot) const {
    if (slot < 0 || static_cast<std::size_t>(slot) >= rows_.size()) {
      return bad_input("slot {} of {}", slot, rows_.size());
    }
    return {};
  }
  Status columns(Slot slot, std::int64_t expected) const {
    if (cols_of(slot) != expected) {
      return bad_input("slot {} has {} columns, expected {}", slot, cols_of(slot), expected);
    }
    return {};
  }
  Status reads(Slot slot, std::int64_t expected_cols) const {
    KV8_TRY(slot_exists(slot));
    if (rows_of(slot) == Rows::kNothing)
      return bad_input("slot {} is read before it is written", slot);
    return columns(slot, expected_cols);
  }
  /// `out` takes the rows of `in`, and is other memory.
  Status writes(Slot in, Slot out, std::int64_t expected_cols) {
    KV8_TRY(slot_exists(out));
    KV8_TRY(columns(out, expected_cols));
    if (in == out) return bad_input("slot {} is read and written", in);
    rows_[static_cast<std::size_t>(out)] = rows_of(in);
    return {};
  }
  Status weight_shape(WeightIndex index, const Shape& expected) const {
    const PlanWeight* weight = KV8_TRY(weight_at(index));
    if (weight->shape != expected) {
      return bad_input("weight `{}` is {}, expected {}", weight->name, shape_text(weight->shape),
                       shape_text(expected));
    }
    return {};
  }
  Result<const PlanWeight*> weight_at(WeightIndex index) const {
    if (index < 0 || static_cast<std::size_t>(index) >= plan_.weights.size()) {
      return bad_input("weight {} of {}", index, plan_.weights.size());
    }
    return &plan_.weights[static_cast<std::size_t>(index)];
  }
  Status epsilon(float eps) const {
    if (!(eps >= 0) || !std::isfinite(eps)) return bad_input("epsilon {}", eps);
    return {};
  }

  Status check(const RmsNormStep& step) {
    KV8_TRY(slot_exists(step.in));
    KV8_TRY(reads(step.in, cols_of(step.in)));
    KV8_TRY(weight_shape(step.weight, {cols_of(step.in)}));
    KV8_TRY(epsilon(step.eps));
    return writes(step.in, step.out, cols_of(step.in));
  }

  Status check(const LinearStep& step) {
    const PlanWeight* weight = KV8_TRY(weight_at(step.weight));
    if (weight->shape.size() != 2) {
      return bad_input("weight `{}` is {}, expected [out, in]", weight->name,
                       shape_text(weight->shape));
    }
    KV8_TRY(reads(step.in, weight->shape[1]));
    if (step.bias != kNone) KV8_TRY(weight_shape(step.bias, {weight->shape[0]}));
    if (step.residual != kNone) {
      KV8_TRY(reads(step.residual, weight->shape[0]));
      if (rows_of(step.residual) != rows_of(step.in)) {
        return bad_input("slots {} and {} hold different rows", step.residual, step.in);
      }
    }
    return writes(step.in, step.out, weight->shape[0]);
  }

  Status check(const RopeKvWriteStep& step) {
    KV8_TRY(reads(step.qkv, qkv_cols()));
    if (rows_of(step.qkv) != Rows::kAll) return bad_input("K and V of selected rows only");
    if (step.layer != written_layers_ || written_layers_ != attended_layers_ ||
        step.layer >= plan_.num_layers) {
      return bad_input("cache of layer {} written, expected layer {}", step.layer,
                       attended_layers_);
    }
    for (const WeightIndex norm : {step.q_norm, step.k_norm}) {
      if (norm != kNone) KV8_TRY(weight_shape(norm, {plan_.head_dim}));
    }
    KV8_TRY(epsilon(step.norm_eps));
    ++written_layers_;
    return writes(step.qkv, step.q_out, q_cols());
  }

  Status check(const AttentionStep& step) {
    KV8_TRY(reads(step.q, q_cols()));
    if (rows_of(step.q) != Rows::kAll) return bad_input("attention of selected rows only");
    if (step.layer != attended_layers_ || step.layer >= written_layers_) {
      return bad_input("attention over layer {}, expected layer {}", step.layer,
                       written_layers_ - 1);
    }
    ++attended_layers_;
    return writes(step.q, step.out, q_cols());
  }

  Status check(const SwiGluStep& step) {
    KV8_TRY(slot_exists(step.out));
    KV8_TRY(reads(step.gate_up, 2 * cols_of(step.out)));
    return writes(step.gate_up, step.out, cols_of(step.out));
  }

  Status check(const SelectRowsStep& step) {
    KV8_TRY(slot_exists(step.in));
    KV8_TRY(reads(step.in, cols_of(step.in)));
    if (rows_of(step.in) != Rows::kAll) return bad_input("rows are selected twice");
    KV8_TRY(writes(step.in, step.out, cols_of(step.in)));
    rows_[static_cast<std::size_t>(step.out)] = Rows::kSelected;
    return {};
  }

  const Plan& plan_;
  std::vector<Rows> rows_;
  std::int32_t written_layers_ = 0, attended_layers_ = 0;
};

}  // namespace

Status check_scales(const std::vector<float>& scales, std::int32_t num_kv_heads,
                    std::string_view name) {
  if (scales.size() != 1 && scales.size() != static_cast<std::size_t>(num_kv_heads)) {
    return bad_input("{}: {} values, expected 1 or {}", name, scales.size(), num_kv_heads);
  }
  for (const float scale : scales) {
    if (!(scale > 0) || !std::isfinite(scale)) {
      return bad_input("{}: value {}, expected a positive number", name, scale);
    }
  }
  return {};
}

Status check_plan(const Plan& plan) {
  KV8_TRY(check_geometry(plan));
  if (plan.caches.size() != static_cast<std::size_t>(plan.num_layers)) {
    return bad_input("{} caches for {} layers", plan.caches.size(), plan.num_layers);
  }
  for (std::size_t i = 0; i < plan.caches.size(); ++i) {
    const Status status = check_cache(plan.caches[i], plan.num_kv_heads);
    if (!status.ok()) return status.error().within(fmt::format("layer {}", i));
  }
  for (const PlanWeight& weight : plan.weights) {
    const Status status = check_weight(weight);
    if (!status.ok()) return status.error().within(fmt::format("weight `{}`", weight.name));
  }
  for (const std::int32_t cols : plan.slot_cols)
    KV8_TRY(check_range(cols, kMaxWidth, "slot columns"));
  return StepChecker(plan).run();
}

}  // namespace kv8::exec
