// From a row of logits to a token: deterministic, the same on every platform and backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace kv8 {

struct LogitBias {
  std::int32_t id = 0;
  float bias = 0.0f;
};

/// How one token is drawn.
struct SampleRow {
  float temperature = 1.0f;
  float top_p = 1.0f;
  std::int32_t top_k = 0;  ///< 0: the whole vocabulary
  std::uint64_t seed = 0;
  std::uint64_t step = 0;                 ///< which token of the request this is, from 0
  std::int32_t num_logprobs = 0;          ///< likeliest tokens to report; 0: no log-probabilities
  std::span<const LogitBias> logit_bias;  ///< distinct ids inside the vocabulary

  bool greedy() const { return temperature == 0.0f || top_k == 1; }
};

struct ScoredToken {
  std::int32_t id = 0;
  double logprob = 0.0;  ///< natural logarithm, at temperature 1, before logit_bias
};

/// What makes a row of logits unusable: an engine that computes such ones must not answer.
enum class LogitsFault : std::int32_t { kNone, kNan, kInfinity, kNothingFinite };

/// `top` has min(num_logprobs, vocabulary) entries, best first, equal ones in the order of their
/// ids. With a fault there is no token; `chosen.id` is then the first token with such a logit.
struct SampledToken {
  ScoredToken chosen;  ///< logprob only where log-probabilities were asked for
  std::vector<ScoredToken> top;
  LogitsFault fault = LogitsFault::kNone;
};

/// kBadInput, naming the token, for a row with a fault.
Status check_sampled(const SampledToken& sampled);

/// Random number `counter` of the stream `seed`, uniform in [0, 1): the 53 high bits of
/// splitmix64's finaliser over both. Stateless, so that token n of a request does not depend on
/// what else ran.
double uniform_at(std::uint64_t seed, std::uint64_t counter);

/// The definition that all backends share. logit_bias is added first (FP32). Greedy: the largest,
/// of equal ones the lowest id. Else, in FP64: keep the top_k largest (equal ones by the lowest
/// id), weights exp((logit - largest) / temperature), keep the shortest prefix whose weight reaches
/// top_p of theirs (at least one), and take the first token at which the running sum of weights
/// exceeds uniform_at(seed, step) of the prefix's.
SampledToken sample_row(std::span<const float> logits, const SampleRow& row);

}  // namespace kv8
