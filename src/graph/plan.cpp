#include "graph/plan.h"

#include <algorithm>
#include <cmath>

namespace kv8 {

namespace {

/// Walks the steps with what is known of every slot.
class PlanChecker {
 public:
  explicit PlanChecker(const Plan& plan) : plan_(plan) {}

  Status check() {
    KV8_TRY(check_geometry());
    for (const LayerCache& cache : plan_.caches) KV8_TRY(check_cache(cache));
    for (const PlanWeight& weight : plan_.weights) KV8_TRY(check_weight(weight));
    for (const std::int32_t cols : plan_.slot_cols) {
      if (cols < 1 || cols > (1 << 24)) return bad_input("a slot has {} columns", cols);
    }
    rows_.assign(plan_.slot_cols.size(), Rows::kUnwritten);
    KV8_TRY(check_slot(plan_.input_slot, plan_.hidden_size, "input"));
    rows_[static_cast<std::size_t>(plan_.input_slot)] = Rows::kAll;
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      const Status status =
          std::visit([this](const auto& step) { return check_step(step); }, plan_.steps[i]);
      if (!status.ok()) return status.error().within(fmt::format("plan step {}", i));
    }
    KV8_TRY(check_slot(plan_.logits_slot, plan_.vocab_size, "logits"));
    if (rows_[static_cast<std::size_t>(plan_.logits_slot)] != Rows::kSelected) {
      return bad_input("the plan's logits are not computed from selected rows");
    }
    if (attended_layers_ != plan_.num_layers) {
      return bad_input("attention over {} of {} layers", attended_layers_, plan_.num_layers);
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i] == Rows::kUnwritten) return bad_input("slot {} is never written", i);
    }
    return {};
  }

 private:
  enum class Rows { kUnwritten, kAll, kSelected };

  Status check_geometry() const {
    for (const std::int32_t size : {plan_.hidden_size, plan_.vocab_size, plan_.num_layers,
                                    plan_.num_heads, plan_.num_kv_heads, plan_.head_dim}) {
      if (size <= 0 || size > (1 << 24)) {
        return bad_input("a size of the plan is {}, outside 1 to 2^24", size);
      }
    }
    if (plan_.num_heads % plan_.num_kv_heads != 0) {
      return bad_input("{} query heads cannot be shared among {} KV heads", plan_.num_heads,
                       plan_.num_kv_heads);
    }
    if (plan_.head_dim % 8 != 0 || plan_.head_dim > 256) {
      return unsupported("head_dim {} (supported: multiples of 8 up to 256)", plan_.head_dim);
    }
    if (plan_.model_dtype != DType::kF16 && plan_.model_dtype != DType::kBF16) {
      return unsupported("model type {} (supported: F16, BF16)", dtype_name(plan_.model_dtype));
    }
    if (plan_.caches.size() != static_cast<std::size_t>(plan_.num_layers)) {
      return bad_input("{} caches for {} layers", plan_.caches.size(), plan_.num_layers);
    }
    if (plan_.rope_inv_freq.size() != static_cast<std::size_t>(plan_.head_dim / 2)) {
      return bad_input("{} RoPE frequencies for head_dim {}", plan_.rope_inv_freq.size(),
                       plan_.head_dim);
    }
    for (const float frequency : plan_.rope_inv_freq) {
      if (!std::isfinite(frequency)) return bad_input("a RoPE frequency is {}", frequency);
    }
    for (const float factor : {plan_.softmax_scale, plan_.rope_attention_factor}) {
      if (!(factor > 0.0f) || !std::isfinite(factor)) {
        return bad_input(
            "softmax scale {} and RoPE attention factor {} must be positive and finite",
            plan_.softmax_scale, plan_.rope_attention_factor);
      }
    }
    if (plan_.max_positions < 0) return bad_input("max_positions is {}", plan_.max_positions);
    return check_shift();
  }

  static Status check_scales(const std::vector<float>& scales) {
    for (const float scale : scales) {
      if (!(scale > 0.0f) || !std::isfinite(scale)) {
        return bad_input("an FP8 scale is {}, but must be positive and finite", scale);
      }
    }
    return {};
  }

  Status check_shift() const {
    if (plan_.qk_exponent_shift < 0 || plan_.qk_exponent_shift > kMaxQkExponentShift) {
      return bad_input("qk_exponent_shift is {}, expected 0 to {}", plan_.qk_exponent_shift,
                       kMaxQkExponentShift);
    }
    if (plan_.qk_exponent_shift > 0 && !plan_.quantizes_queries()) {
      return bad_input("qk_exponent_shift is {}, but a layer's Q is not quantized",
                       plan_.qk_exponent_shift);
    }
    return {};
  }

  Status check_cache(const LayerCache& cache) const {
    if (cache.dtype == DType::kF16) return {};
    if (cache.dtype != DType::kF8E4M3) {
      return unsupported("a KV cache of type {} (supported: F16, F8_E4M3)",
                         dtype_name(cache.dtype));
    }
    const std::size_t count = cache.k_scale.size();
    if (count != cache.v_scale.size() ||
        (count != 1 && count != static_cast<std::size_t>(plan_.num_kv_heads)) ||
        cache.q_scale.size() > 1) {
      return bad_input("{} K, {} V and {} Q scales for {} KV heads", count, cache.v_scale.size(),
                       cache.q_scale.size(), plan_.num_kv_heads);
    }
    KV8_TRY(check_scales(cache.k_scale));
    KV8_TRY(check_scales(cache.v_scale));
    return check_scales(cache.q_scale);
  }

  static Status check_weight(const PlanWeight& weight) {
    if (weight.dtype != DType::kF16 && weight.dtype != DType::kBF16 &&
        weight.dtype != DType::kF32) {
      return unsupported("weight {} has type {} (supported: F16, BF16, F32)", weight.name,
                         dtype_name(weight.dtype));
    }
    const auto count = static_cast<std::size_t>(KV8_TRY(checked_num_elements(weight.shape)));
    std::size_t bytes = 0;
    for (const TensorView& part : weight.parts) {
      if (part.dtype != weight.dtype) {
        return bad_input("weight {} has a part of type {}", weight.name, dtype_name(part.dtype));
      }
      bytes += part.bytes.size();
    }
    if (bytes / dtype_size(weight.dtype) != count || bytes % dtype_size(weight.dtype) != 0) {
      return bad_input("weight {} of shape {} has {} bytes", weight.name, shape_text(weight.shape),
                       bytes);
    }
    return {};
  }

  Status check_slot(Slot slot, std::int64_t cols, const char* what) const {
    if (slot < 0 || static_cast<std::size_t>(slot) >= plan_.slot_cols.size()) {
      return bad_input("{} slot {} does not exist", what, slot);
    }
    if (plan_.slot_cols[static_cast<std::size_t>(slot)] != cols) {
      return bad_input("{} slot {} has {} columns where {} are needed", what, slot,
                       plan_.slot_cols[static_cast<std::size_t>(slot)], cols);
    }
    return {};
  }

  /// Columns of a slot that must exist and hold values.
  Result<std::int64_t> read(Slot slot) const {
    if (slot < 0 || static_cast<std::size_t>(slot) >= plan_.slot_cols.size()) {
      return bad_input("slot {} does not exist", slot);
    }
    if (rows_[static_cast<std::size_t>(slot)] == Rows::kUnwritten) {
      return bad_input("slot {} is read before it is written", slot);
    }
    const std::int64_t cols = plan_.slot_cols[static_cast<std::size_t>(slot)];
    if (cols <= 0 || cols > (1 << 24)) return bad_input("slot {} has {} columns", slot, cols);
    return cols;
  }

  Status write(Slot slot, std::int64_t cols, Slot like) {
    KV8_TRY(check_slot(slot, cols, "output"));
    if (slot == plan_.logits_slot && (rows_[static_cast<std::size_t>(slot)] != Rows::kUnwritten ||
                                      rows_[static_cast<std::size_t>(like)] != Rows::kSelected)) {
      return bad_input("the logits' slot {} is used for something else", slot);
    }
    rows_[static_cast<std::size_t>(slot)] = rows_[static_cast<std::size_t>(like)];
    return {};
  }

  Status needs_all_rows(Slot slot) const {
    if (rows_[static_cast<std::size_t>(slot)] == Rows::kAll) return {};
    return bad_input("slot {} must hold all rows here", slot);
  }

  Status check_weight_shape(WeightIndex index, const Shape& shape) const {
    if (index < 0 || static_cast<std::size_t>(index) >= plan_.weights.size()) {
      return bad_input("weight {} does not exist", index);
    }
    const PlanWeight& weight = plan_.weights[static_cast<std::size_t>(index)];
    if (weight.shape == shape) return {};
    return bad_input("weight {} has shape {} where {} is needed", weight.name,
                     shape_text(weight.shape), shape_text(shape));
  }

  /// Every layer writes its cache and attends over it once, in order.
  static Status check_layer(std::int32_t layer, std::int32_t expected) {
    if (layer == expected) return {};
    return bad_input("layer {} where layer {} is due", layer, expected);
  }

  static Status check_epsilon(float eps) {
    if (eps >= 0.0f && std::isfinite(eps)) return {};
    return bad_input("epsilon is {}", eps);
  }

  Status check_step(const RmsNormStep& step) {
    const std::int64_t cols = KV8_TRY(read(step.in));
    if (step.out == step.in) return bad_input("a norm writes over its input");
    KV8_TRY(check_weight_shape(step.weight, {cols}));
    KV8_TRY(check_epsilon(step.eps));
    return write(step.out, cols, step.in);
  }

  Status check_step(const LinearStep& step) {
    const std::int64_t in = KV8_TRY(read(step.in));
    if (step.out == step.in) return bad_input("a linear step writes over its input");
    if (step.out < 0 || static_cast<std::size_t>(step.out) >= plan_.slot_cols.size()) {
      return bad_input("slot {} does not exist", step.out);
    }
    const std::int64_t out = plan_.slot_cols[static_cast<std::size_t>(step.out)];
    KV8_TRY(check_weight_shape(step.weight, {out, in}));
    if (step.bias != kNone) KV8_TRY(check_weight_shape(step.bias, {out}));
    if (step.residual != kNone) {
      KV8_TRY(read(step.residual));
      KV8_TRY(check_slot(step.residual, out, "residual"));
      if (rows_[static_cast<std::size_t>(step.residual)] !=
          rows_[static_cast<std::size_t>(step.in)]) {
        return bad_input("input and residual have different rows");
      }
    }
    return write(step.out, out, step.in);
  }

  Status check_step(const RopeKvWriteStep& step) {
    const std::int64_t head_dim = plan_.head_dim;
    KV8_TRY(check_layer(step.layer, written_layers_));
    if (written_layers_ != attended_layers_ || written_layers_ == plan_.num_layers) {
      return bad_input("the cache of layer {} is not due", step.layer);
    }
    ++written_layers_;
    KV8_TRY(check_epsilon(step.norm_eps));
    KV8_TRY(read(step.qkv));
    KV8_TRY(needs_all_rows(step.qkv));
    KV8_TRY(check_slot(step.qkv,
                       (plan_.num_heads + 2 * std::int64_t{plan_.num_kv_heads}) * head_dim, "QKV"));
    if (step.q_norm != kNone) KV8_TRY(check_weight_shape(step.q_norm, {head_dim}));
    if (step.k_norm != kNone) KV8_TRY(check_weight_shape(step.k_norm, {head_dim}));
    if (step.q_out == step.qkv) return bad_input("Q is written over QKV");
    return write(step.q_out, plan_.num_heads * head_dim, step.qkv);
  }

  Status check_step(const AttentionStep& step) {
    const std::int64_t cols = std::int64_t{plan_.num_heads} * plan_.head_dim;
    KV8_TRY(check_layer(step.layer, attended_layers_));
    if (written_layers_ == attended_layers_) {
      return bad_input("attention over layer {} before its cache is written", step.layer);
    }
    ++attended_layers_;
    KV8_TRY(read(step.q));
    KV8_TRY(needs_all_rows(step.q));
    KV8_TRY(check_slot(step.q, cols, "Q"));
    if (step.out == step.q) return bad_input("attention writes over its input");
    return write(step.out, cols, step.q);
  }

  Status check_step(const SwiGluStep& step) {
    const std::int64_t cols = KV8_TRY(read(step.gate_up));
    if (cols % 2 != 0 || step.out == step.gate_up) return bad_input("SwiGLU slots do not fit");
    return write(step.out, cols / 2, step.gate_up);
  }

  Status check_step(const SelectRowsStep& step) {
    const std::int64_t cols = KV8_TRY(read(step.in));
    KV8_TRY(needs_all_rows(step.in));
    if (step.out == step.in) return bad_input("rows are selected onto their source");
    KV8_TRY(write(step.out, cols, step.in));
    rows_[static_cast<std::size_t>(step.out)] = Rows::kSelected;
    return {};
  }

  const Plan& plan_;
  std::vector<Rows> rows_;
  std::int32_t written_layers_ = 0, attended_layers_ = 0;
};

}  // namespace

std::int32_t half_score_shift(std::int32_t head_dim) {
  constexpr double kLargestHalf = 65504.0;
  std::int32_t shift = 0;
  while (std::ldexp(double{kE4m3Max} * kE4m3Max * head_dim, -shift) > kLargestHalf) ++shift;
  return shift;
}

void fold_exponent_shift(Plan& plan, std::int32_t shift) {
  plan.qk_exponent_shift = shift;
  for (LayerCache& cache : plan.caches) {
    for (float& scale : cache.k_scale) scale = std::ldexp(scale, plan.k_exponent_shift());
    for (float& scale : cache.q_scale) scale = std::ldexp(scale, plan.q_exponent_shift());
  }
}

Status validate(const Plan& plan) { return PlanChecker(plan).check(); }

bool Plan::quantizes_queries() const {
  return std::ranges::all_of(caches, [](const LayerCache& cache) {
    return cache.dtype != DType::kF8E4M3 || !cache.q_scale.empty();
  });
}

std::int64_t Plan::kv_bytes_per_token() const {
  std::int64_t bytes = 0;
  for (const LayerCache& cache : caches) {
    bytes += KvLayout{num_kv_heads, head_dim, static_cast<int>(dtype_size(cache.dtype))}
                 .bytes_per_token();
  }
  return bytes;
}

namespace {

struct StepName {
  const Plan& plan;
  std::string weight(WeightIndex index) const {
    return plan.weights[static_cast<std::size_t>(index)].name;
  }
  std::string operator()(const RmsNormStep& s) const { return weight(s.weight); }
  std::string operator()(const LinearStep& s) const { return weight(s.weight); }
  std::string operator()(const RopeKvWriteStep& s) const {
    return fmt::format("q of layer {}", s.layer);
  }
  std::string operator()(const AttentionStep& s) const {
    return fmt::format("attention of layer {}", s.layer);
  }
  std::string operator()(const SwiGluStep&) const { return "swiglu"; }
  std::string operator()(const SelectRowsStep&) const { return "selected rows"; }
};

}  // namespace

std::string step_name(const Plan& plan, std::size_t step) {
  return fmt::format("{}: {}", step, std::visit(StepName{plan}, plan.steps[step]));
}

Slot written_slot(const Step& step) {
  return std::visit(
      [](const auto& s) {
        if constexpr (requires { s.q_out; }) {
          return s.q_out;
        } else {
          return s.out;
        }
      },
      step);
}

Status check_embedding(const Plan& plan, const TensorView& embedding) {
  const Shape expected = {plan.vocab_size, plan.hidden_size};
  if (embedding.dtype != DType::kF16 || embedding.shape != expected ||
      embedding.bytes.size() != static_cast<std::size_t>(embedding.num_elements()) * 2) {
    return bad_input("the embedding is {} {}, expected F16 {}", dtype_name(embedding.dtype),
                     shape_text(embedding.shape), shape_text(expected));
  }
  return {};
}

std::int64_t weight_bytes(const Plan& plan) {
  std::int64_t bytes = 0;
  for (const PlanWeight& weight : plan.weights) {
    for (const TensorView& part : weight.parts) {
      bytes += static_cast<std::int64_t>(part.bytes.size());
    }
  }
  return bytes;
}

std::int64_t kv_bytes_per_token(const Plan& plan, DType cache_dtype) {
  const KvLayout layout{plan.num_kv_heads, plan.head_dim,
                        static_cast<int>(dtype_size(cache_dtype))};
  return layout.bytes_per_token() * plan.num_layers;
}

}  // namespace kv8
