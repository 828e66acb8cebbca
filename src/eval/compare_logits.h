// Two models' predictions of the same tokens, compared in double precision.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/thread_pool.h"

namespace kv8::eval {

/// Sums over positions; add them to join chunks.
struct PredictionSums {
  std::int64_t positions = 0, top1_agreements = 0;
  double nll_a = 0, nll_b = 0;  ///< -log p(next token), nats
  double kl = 0;                ///< KL(a || b), nats

  void add(const PredictionSums& other);
};

/// One position: logits of both models and the token that follows.
/// KL = sum_i p_a(i) (a_i - b_i) - log Z_a + log Z_b with Z = sum_i exp(logit_i).
PredictionSums compare_position(std::span<const float> a, std::span<const float> b,
                                std::int32_t next);

/// Rows of `a` and `b` [next.size(), vocab]; rows are summed in order, whatever the threads.
/// kBadInput when a logit is NaN or infinite.
Result<PredictionSums> compare_logits(std::span<const float> a, std::span<const float> b,
                                      std::span<const std::int32_t> next, ThreadPool& threads);

}  // namespace kv8::eval
