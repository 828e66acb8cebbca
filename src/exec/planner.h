// From graph to plan: recognises the decoder's pieces in standard operators and fuses them.
#pragma once

#include "graph/graph.h"
#include "graph/plan.h"

namespace kv8::exec {

struct PlannerOptions {
  /// What Q becomes where the graph quantizes it: kF8E4M3 keeps that, kF16 drops it (`--qDtype`).
  DType q_dtype = DType::kF8E4M3;
  std::int32_t qk_exponent_shift = 0;  ///< Plan's; other than 0 for FP8 caches with FP8 Q only
  /// half_score_shift of the model's head size instead, or none where there is no such cache.
  bool fit_half_scores = false;
};

/// Matches the graph that models/decoder builds (from a checkpoint, or read back from ONNX): QKV
/// and gate/up products are concatenated; RoPE, rounding, quantization and the cache write become
/// one step, attention another. A node that does not fit is an error naming it and what was
/// expected there.
Result<Plan> plan_graph(const graph::Graph& graph, const PlannerOptions& options);

}  // namespace kv8::exec
