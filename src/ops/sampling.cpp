#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kv8 {
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

std::int32_t draw(std::span<const float> logits, const SampleRow& row) {
  const std::size_t keep = row.top_k > 0 ? static_cast<std::size_t>(row.top_k) : logits.size();
  const std::vector<std::int32_t> ids = best_ids(logits, keep);
  const double temperature = row.temperature;
  const double largest = logits[static_cast<std::size_t>(ids.front())];
  std::vector<double> weight(ids.size());
  double total = 0.0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    weight[i] = std::exp((logits[static_cast<std::size_t>(ids[i])] - largest) / temperature);
    total += weight[i];
  }
  double nucleus = 0.0;
  std::size_t count = 0;
  while (count < ids.size() && (count == 0 || nucleus < row.top_p * total)) {
    nucleus += weight[count++];
  }
  double left = uniform_at(row.seed, row.step) * nucleus;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    left -= weight[i];
    if (left < 0.0) return ids[i];
  }
  return ids[count - 1];
}

/// The first fault of a row, with the token where it lies.
SampledToken find_fault(std::span<const float> logits) {
  SampledToken result;
  bool any_finite = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      result.fault = std::isnan(logits[i]) ? LogitsFault::kNan : LogitsFault::kInfinity;
      result.chosen.id = static_cast<std::int32_t>(i);
      return result;
    }
    any_finite = any_finite || std::isfinite(logits[i]);
  }
  if (!any_finite) result.fault = LogitsFault::kNothingFinite;
  return result;
}

}  // namespace

Status check_sampled(const SampledToken& sampled) {
  switch (sampled.fault) {
    case LogitsFault::kNone:
      return {};
    case LogitsFault::kNothingFinite:
      return bad_input("the model computed -infinity for every token");
    case LogitsFault::kNan:
    case LogitsFault::kInfinity:
      break;
  }
  return bad_input(
      "the model computed a logit of {} for token {}; the engine's weights or scales are broken",
      sampled.fault == LogitsFault::kNan ? "nan" : "inf", sampled.chosen.id);
}

double uniform_at(std::uint64_t seed, std::uint64_t counter) {
  const std::uint64_t bits = splitmix(splitmix(seed) ^ counter);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

SampledToken sample_row(std::span<const float> logits, const SampleRow& row) {
  SampledToken result = find_fault(logits);
  if (result.fault != LogitsFault::kNone) return result;
  std::vector<float> biased;
  std::span<const float> values = logits;
  if (!row.logit_bias.empty()) {
    biased.assign(logits.begin(), logits.end());
    for (const auto& [id, bias] : row.logit_bias) biased[static_cast<std::size_t>(id)] += bias;
    values = biased;
  }
  result.chosen.id = row.greedy() ? largest_id(values) : draw(values, row);
  if (row.num_logprobs == 0) return result;
  const double total = log_sum_exp(logits);
  const auto logprob = [&](std::int32_t id) {
    return logits[static_cast<std::size_t>(id)] - total;
  };
  result.chosen.logprob = logprob(result.chosen.id);
  for (const std::int32_t id : best_ids(logits, static_cast<std::size_t>(row.num_logprobs))) {
    result.top.push_back({id, logprob(id)});
  }
  return result;
}

}  // namespace kv8
