#include "eval/compare_logits.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace kv8::eval {

void PredictionSums::add(const PredictionSums& other) {
  positions += other.positions;
  top1_agreements += other.top1_agreements;
  nll_a += other.nll_a;
  nll_b += other.nll_b;
  kl += other.kl;
}

PredictionSums compare_position(std::span<const float> a, std::span<const float> b,
                                std::int32_t next) {
  const auto best_a = std::max_element(a.begin(), a.end()) - a.begin();
  const auto best_b = std::max_element(b.begin(), b.end()) - b.begin();
  const double max_a = a[static_cast<std::size_t>(best_a)];
  const double max_b = b[static_cast<std::size_t>(best_b)];
  double sum_a = 0.0, sum_b = 0.0, weighted = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double weight = std::exp(a[i] - max_a);
    sum_a += weight;
    sum_b += std::exp(b[i] - max_b);
    weighted += weight * (static_cast<double>(a[i]) - static_cast<double>(b[i]));
  }
  const double log_z_a = max_a + std::log(sum_a), log_z_b = max_b + std::log(sum_b);
  PredictionSums sums;
  sums.positions = 1;
  sums.top1_agreements = best_a == best_b;
  sums.nll_a = log_z_a - a[static_cast<std::size_t>(next)];
  sums.nll_b = log_z_b - b[static_cast<std::size_t>(next)];
  sums.kl = weighted / sum_a - log_z_a + log_z_b;
  return sums;
}

Result<PredictionSums> compare_logits(std::span<const float> a, std::span<const float> b,
                                      std::span<const std::int32_t> next, ThreadPool& threads) {
  KV8_CHECK(!next.empty() && a.size() == b.size() && a.size() % next.size() == 0,
            "{} and {} logits of {} positions", a.size(), b.size(), next.size());
  const std::size_t vocab = a.size() / next.size();
  std::vector<PredictionSums> rows(next.size());
  threads.parallel_for(
      static_cast<std::int64_t>(next.size()), 1, [&](std::int64_t begin, std::int64_t end, int) {
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
          rows[i] =
              compare_position(a.subspan(i * vocab, vocab), b.subspan(i * vocab, vocab), next[i]);
        }
      });
  PredictionSums sums;
  for (const PredictionSums& row : rows) sums.add(row);
  // NaN and infinity survive every sum above: inf - inf is NaN.
  if (!std::isfinite(sums.nll_a) || !std::isfinite(sums.nll_b) || !std::isfinite(sums.kl)) {
    return bad_input(
        "the model computes logits that are not finite; its weights or scales are "
        "broken");
  }
  return sums;
}

}  // namespace kv8::eval
