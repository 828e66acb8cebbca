#include "eval/compare_logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace kv8::eval {
namespace {

TEST(CompareLogits, MatchesTheDefinitions) {
  const std::vector<float> a = {0.3f, -1.2f, 40.0f, 39.5f}, b = {0.1f, -1.0f, 39.0f, 39.25f};
  std::vector<double> p(4), q(4);
  double sum_p = 0, sum_q = 0, kl = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    sum_p += p[i] = std::exp(a[i] - 40.0);
    sum_q += q[i] = std::exp(b[i] - 40.0);
  }
  for (std::size_t i = 0; i < 4; ++i) kl += p[i] / sum_p * std::log(p[i] / sum_p / (q[i] / sum_q));
  const PredictionSums sums = compare_position(a, b, 3);
  EXPECT_EQ(sums.positions, 1);
  EXPECT_EQ(sums.top1_agreements, 0);
  EXPECT_NEAR(sums.nll_a, -std::log(p[3] / sum_p), 1e-12);
  EXPECT_NEAR(sums.nll_b, -std::log(q[3] / sum_q), 1e-12);
  EXPECT_NEAR(sums.kl, kl, 1e-12);
}

TEST(CompareLogits, EqualModelsDivergeByNothing) {
  const std::vector<float> a = {5.0f, -3.0f, 1.0f, 0.0f, 0.0f, 88.0f};
  ThreadPool threads(2);
  const std::vector<std::int32_t> next = {1, 2};
  const PredictionSums sums = compare_logits(a, a, next, threads).value();
  EXPECT_EQ(sums.positions, 2);
  EXPECT_EQ(sums.top1_agreements, 2);
  EXPECT_NEAR(sums.kl, 0.0, 1e-14);
  EXPECT_NEAR(sums.nll_b, 8.0 + 0.0 + std::log(1.0 + std::exp(-8.0) + std::exp(-4.0)), 1e-6);
}

TEST(CompareLogits, NonFiniteLogitsAreAnError) {
  const std::vector<float> fine = {1.0f, 2.0f, 3.0f};
  const std::vector<std::int32_t> next = {0};
  ThreadPool threads(1);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (std::size_t i = 0; i < 3; ++i) {
      std::vector<float> broken = fine;
      broken[i] = bad;
      EXPECT_FALSE(compare_logits(fine, broken, next, threads).ok()) << i;
      EXPECT_FALSE(compare_logits(broken, fine, next, threads).ok()) << i;
    }
  }
}

}  // namespace
}  // namespace kv8::eval
