// From a row of logits to a token: deterministic, the same on every platform.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/result.h"
#include "runtime/request.h"

namespace kv8::runtime {

/// Random number `counter` of the stream `seed`, uniform in [0, 1): the 53 high bits of
/// splitmix64's finaliser over both. Stateless, so that token n of a request does not depend on
/// what else ran.
double uniform_at(std::uint64_t seed, std::uint64_t counter);

struct ScoredToken {
  std::int32_t id = 0;
  double logprob = 0.0;  ///< natural logarithm, at temperature 1, before logit_bias
};

/// The log-probability of `chosen` and the `count` likeliest tokens, best first; equal ones in the
/// order of their ids.
struct RowLogprobs {
  ScoredToken chosen;
  std::vector<ScoredToken> top;
};
RowLogprobs row_logprobs(std::span<const float> logits, std::int32_t chosen, std::int32_t count);

/// Fails with kBadInput when the row holds NaN or +infinity, or nothing but -infinity: an engine
/// that computes such logits must not answer.
Status check_logits(std::span<const float> logits);

/// Picks a token from logits that check_logits accepted. logit_bias is added first. Greedy: the
/// largest, of equal ones the lowest id. Else: divide by the temperature, keep the top_k largest
/// (0: all), softmax, keep the shortest prefix whose probability reaches top_p (at least one), draw
/// with uniform_at(seed, step). Ids in logit_bias are inside the vocabulary (checked by the
/// caller).
std::int32_t sample_token(std::span<const float> logits, const SamplingParams& params,
                          std::uint64_t step);

}  // namespace kv8::runtime
