#include "cuda/engine/program.h"

#include <algorithm>

namespace kv8::cuda_engine {
namespace {

class ProgramMaker {
 public:
  explicit ProgramMaker(const Plan& plan) : plan_(plan) {
    types_.assign(plan.slot_cols.size(), ValueType::kModel);
    program_.bf16 = plan.model_dtype == DType::kBF16;
    program_.slot_bytes.assign(plan.slot_cols.size(), 1);
  }

  Result<Program> make() {
    KV8_TRY(check_geometry());
    write(plan_.input_slot, ValueType::kF32);
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      StepInfo info;
      info.out =
          KV8_TRY(std::visit([&](const auto& step) { return result_of(step); }, plan_.steps[i]));
      write(written_slot(plan_.steps[i]), info.out);
      program_.steps.push_back(info);
    }
    find_fusions();
    return std::move(program_);
  }

 private:
  Status check_geometry() const {
    if (plan_.head_dim != 64 && plan_.head_dim != 128) {
      return unsupported(
          "backend cuda: head_dim {}; its attention kernels have 64 and 128. Use --backend cpu",
          plan_.head_dim);
    }
    for (const Step& step : plan_.steps) {
      if (const auto* linear = std::get_if<LinearStep>(&step)) KV8_TRY(check_product(*linear));
    }
    return {};
  }

  Status check_product(const LinearStep& step) const {
    KV8_TRY(check_type(step.weight, false));
    KV8_TRY(check_type(step.bias, false));
    const PlanWeight& weight = plan_.weights[static_cast<std::size_t>(step.weight)];
    if (weight.shape[1] % 8 != 0 || weight.shape[0] % 8 != 0) {
      return unsupported(
          "backend cuda: `{}` is {}; its products take multiples of 8. Use --backend cpu",
          weight.name, shape_text(weight.shape));
    }
    return {};
  }

  /// Weights of products have the model's type; norms may also be FP32.
  Status check_type(WeightIndex index, bool f32_allowed) const {
    if (index == kNone) return {};
    const PlanWeight& weight = plan_.weights[static_cast<std::size_t>(index)];
    if (weight.dtype == plan_.model_dtype || (f32_allowed && weight.dtype == DType::kF32))
      return {};
    return unsupported(
        "backend cuda: `{}` is {} in a model of {}; its kernels take weights of the model's type. "
        "Use --backend cpu",
        weight.name, dtype_name(weight.dtype), dtype_name(plan_.model_dtype));
  }

  void write(Slot slot, ValueType type) {
    const auto i = static_cast<std::size_t>(slot);
    types_[i] = type;
    program_.slot_bytes[i] = std::max(program_.slot_bytes[i], type == ValueType::kF32 ? 4 : 2);
  }

  Status expect(Slot slot, ValueType type, const char* op) const {
    if (types_[static_cast<std::size_t>(slot)] == type) return {};
    return unsupported("backend cuda: {} of a value that is not of the type it takes", op);
  }

  Result<ValueType> result_of(const RmsNormStep& step) const {
    KV8_TRY(expect(step.in, ValueType::kF32, "RMS norm"));
    KV8_TRY(check_type(step.weight, true));
    return ValueType::kModel;
  }
  Result<ValueType> result_of(const LinearStep& step) const {
    KV8_TRY(expect(step.in, ValueType::kModel, "product"));
    if (step.residual != kNone) KV8_TRY(expect(step.residual, ValueType::kF32, "residual"));
    const bool f32 = step.residual != kNone || step.out == plan_.logits_slot;
    return f32 ? ValueType::kF32 : ValueType::kModel;
  }
  Result<ValueType> result_of(const RopeKvWriteStep& step) const {
    KV8_TRY(expect(step.qkv, ValueType::kModel, "RoPE"));
    KV8_TRY(check_type(step.q_norm, false));
    KV8_TRY(check_type(step.k_norm, false));
    return ValueType::kQuery;
  }
  Result<ValueType> result_of(const AttentionStep& step) const {
    KV8_TRY(expect(step.q, ValueType::kQuery, "attention"));
    return ValueType::kModel;
  }
  Result<ValueType> result_of(const SwiGluStep& step) const {
    KV8_TRY(expect(step.gate_up, ValueType::kModel, "SwiGLU"));
    return ValueType::kModel;
  }
  Result<ValueType> result_of(const SelectRowsStep& step) const {
    KV8_TRY(expect(step.in, ValueType::kF32, "selection of rows"));
    return ValueType::kF32;
  }

  static bool reads(const Step& step, Slot slot) {
    return std::visit(
        [slot](const auto& s) {
          if constexpr (requires { s.residual; }) {
            return s.in == slot || s.residual == slot;
          } else if constexpr (requires { s.in; }) {
            return s.in == slot;
          } else if constexpr (requires { s.qkv; }) {
            return s.qkv == slot;
          } else if constexpr (requires { s.q; }) {
            return s.q == slot;
          } else {
            return s.gate_up == slot;
          }
        },
        step);
  }

  /// Whether what step `i` writes is read by step `i + 1` and by no later one.
  bool only_next_reads(std::size_t i) const {
    const Slot slot = written_slot(plan_.steps[i]);
    if (i + 1 >= plan_.steps.size() || !reads(plan_.steps[i + 1], slot)) return false;
    if (written_slot(plan_.steps[i + 1]) == slot) return true;
    for (std::size_t j = i + 2; j < plan_.steps.size(); ++j) {
      if (reads(plan_.steps[j], slot)) return false;
      if (written_slot(plan_.steps[j]) == slot) return true;
    }
    return slot != plan_.logits_slot;
  }

  void find_fusions() {
    for (std::size_t i = 0; i + 1 < plan_.steps.size(); ++i) {
      if (!only_next_reads(i)) continue;
      const Step& next = plan_.steps[i + 1];
      const auto* linear = std::get_if<LinearStep>(&plan_.steps[i]);
      program_.steps[i].norm_into_product = std::holds_alternative<RmsNormStep>(plan_.steps[i]) &&
                                            std::holds_alternative<LinearStep>(next);
      program_.steps[i].product_into_swiglu = linear != nullptr && linear->bias == kNone &&
                                              linear->residual == kNone &&
                                              std::holds_alternative<SwiGluStep>(next);
    }
  }

  const Plan& plan_;
  Program program_;
  std::vector<ValueType> types_;
};

}  // namespace

Result<Program> make_program(const Plan& plan) { return ProgramMaker(plan).make(); }

}  // namespace kv8::cuda_engine
