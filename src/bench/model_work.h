// What a step of a model has to read and to compute, and how fast a machine could be done with it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/backend.h"

namespace kv8::bench {

/// One matrix product: [rows, in] x [in, out].
struct GemmShape {
  std::int64_t rows = 0, in = 0, out = 0;
};

/// What the machine does at most, measured.
struct Ceilings {
  double read_bytes_per_s = 0;  ///< a plain kernel or loop that reads memory once
  double flop_per_s = 0;        ///< the GEMM library on the model's own shapes
};

/// Of one Backend::run. Weights and cached tokens count once, activations and writes not at all.
struct StepWork {
  double weight_bytes = 0, kv_bytes = 0;
  double linear_flop = 0, attention_flop = 0;
  double attention_speed = 1;  ///< attention's peak rate over the GEMM's

  /// Both of the same attention_speed.
  void add(const StepWork& other);
  void divide_by(double count);
};

/// `logits_rows` rows go through the products behind SelectRows. Attention counts the keys that
/// causality leaves: 4 * head_dim FLOP for each query head, query and key.
StepWork work_of(const Plan& plan, std::span<const SequenceSlice> sequences,
                 std::int64_t logits_rows, double attention_speed);

/// Milliseconds that the products, the attention and both together take on the roofline: bytes over
/// read bandwidth or FLOP over the GEMM rate, whichever is longer.
struct Roofline {
  double linear_ms = 0, attention_ms = 0, ms = 0;
  bool memory_bound = false;
};
Roofline roofline_of(const StepWork& work, const Ceilings& ceilings);

/// The plan's matrix products for `rows` rows, of which `logits_rows` go through those behind
/// SelectRows.
std::vector<GemmShape> gemm_shapes(const Plan& plan, std::int64_t rows, std::int64_t logits_rows);

/// Floating-point operations of those products.
double flop_of(std::span<const GemmShape> shapes);

}  // namespace kv8::bench
