#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kv8::runtime {
namespace {

std::uint64_t splitmix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Larger logits first, then lower ids: a total order, so that no result depends on how a library
/// sorts.
struct Better {
  std::span<const float> logits;
  bool operator()(std::int32_t a, std::int32_t b) const {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  }
};

std::vector<std::int32_t> best_ids(std::span<const float> logits, std::size_t count) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  count = std::min(count, ids.size());
  const auto middle = ids.begin() + static_cast<std::ptrdiff_t>(count);
  if (count < ids.size()) std::nth_element(ids.begin(), middle, ids.end(), Better{logits});
  std::sort(ids.begin(), middle, Better{logits});
  ids.resize(count);
  return ids;
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

std::int32_t largest_id(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::int32_t draw(std::span<const float> logits, const SamplingParams& params, std::uint64_t step) {
  const std::size_t keep =
      params.top_k > 0 ? static_cast<std::size_t>(params.top_k) : logits.size();
  const std::vector<std::int32_t> ids = best_ids(logits, keep);
  const double temperature = params.temperature;
  const double largest = logits[static_cast<std::size_t>(ids.front())];
  std::vector<double> weight(ids.size());
  double total = 0.0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    weight[i] = std::exp((logits[static_cast<std::size_t>(ids[i])] - largest) / temperature);
    total += weight[i];
  }
  double nucleus = 0.0;
  std::size_t count = 0;
  while (count < ids.size() && (count == 0 || nucleus < params.top_p * total)) {
    nucleus += weight[count++];
  }
  double left = uniform_at(params.seed, step) * nucleus;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    left -= weight[i];
    if (left < 0.0) return ids[i];
  }
  return ids[count - 1];
}

}  // namespace

double uniform_at(std::uint64_t seed, std::uint64_t counter) {
  const std::uint64_t bits = splitmix(splitmix(seed) ^ counter);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

RowLogprobs row_logprobs(std::span<const float> logits, std::int32_t chosen, std::int32_t count) {
  const double total = log_sum_exp(logits);
  const auto scored = [&](std::int32_t id) {
    return ScoredToken{id, logits[static_cast<std::size_t>(id)] - total};
  };
  RowLogprobs result{scored(chosen), {}};
  for (const std::int32_t id : best_ids(logits, static_cast<std::size_t>(count))) {
    result.top.push_back(scored(id));
  }
  return result;
}

Status check_logits(std::span<const float> logits) {
  bool any_finite = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      return bad_input(
          "the model computed a logit of {} for token {}; the engine's weights or "
          "scales are broken",
          logits[i], i);
    }
    any_finite = any_finite || std::isfinite(logits[i]);
  }
  if (!any_finite) return bad_input("the model computed -infinity for every token");
  return {};
}

std::int32_t sample_token(std::span<const float> logits, const SamplingParams& params,
                          std::uint64_t step) {
  std::vector<float> biased;
  if (!params.logit_bias.empty()) {
    biased.assign(logits.begin(), logits.end());
    for (const auto& [id, bias] : params.logit_bias) biased[static_cast<std::size_t>(id)] += bias;
    logits = biased;
  }
  return params.greedy() ? largest_id(logits) : draw(logits, params, step);
}

}  // namespace kv8::runtime
