// What a plan means on the GPU: types of its activations, and steps that one kernel can do.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/plan.h"

namespace kv8::cuda_engine {

/// What a slot holds at a step. The residual stream and the logits are FP32, all else has the
/// model's type, Q that of its layer's cache.
enum class ValueType { kF32, kModel, kQuery };

struct StepInfo {
  ValueType out = ValueType::kModel;
  /// RMS norm whose only reader is the next step, a product.
  bool norm_into_product = false;
  /// Product whose only reader is the next step, a SwiGLU, and which has neither bias nor residual.
  bool product_into_swiglu = false;
};

struct Program {
  bool bf16 = false;            ///< the model's type
  std::vector<StepInfo> steps;  ///< one a step of the plan
  std::vector<int> slot_bytes;  ///< bytes of the widest element that a slot ever holds
};

/// Whether a layer's queries are FP8.
inline bool fp8_queries(const LayerCache& cache) { return !cache.q_scale.empty(); }

/// Checks that the kernels can run `plan` (weight types, head sizes, the order of steps) and
/// prepares what they need. kUnsupported names what they cannot.
Result<Program> make_program(const Plan& plan);

}  // namespace kv8::cuda_engine
