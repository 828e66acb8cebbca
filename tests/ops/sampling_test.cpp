#include "ops/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace kv8 {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::int32_t token(const std::vector<float>& logits, SampleRow row, std::uint64_t step) {
  row.step = step;
  return sample_row(logits, row).chosen.id;
}

/// How often each token is drawn in `draws` steps.
std::vector<int> histogram(const std::vector<float>& logits, const SampleRow& params, int draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    ++counts[static_cast<std::size_t>(token(logits, params, static_cast<std::uint64_t>(i)))];
  }
  return counts;
}

/// Integers computed with arbitrary-precision arithmetic from the generator's definition.
TEST(UniformAt, IsTheSameEverywhere) {
  EXPECT_EQ(uniform_at(0, 0) * 0x1p53, 5876733520225071.0);
  EXPECT_EQ(uniform_at(0, 1) * 0x1p53, 306350170640982.0);
  EXPECT_EQ(uniform_at(1, 0) * 0x1p53, 3316356330981164.0);
  EXPECT_EQ(uniform_at(20240611, 63) * 0x1p53, 2824593381072176.0);
  EXPECT_EQ(uniform_at(~0ull, ~0ull) * 0x1p53, 3484500655666319.0);
}

TEST(SampleToken, GreedyTakesTheLowestOfEqualIds) {
  const std::vector<float> logits = {-1.0f, 3.5f, 2.0f, 3.5f};
  SampleRow params;
  params.top_k = 1;
  EXPECT_EQ(token(logits, params, 0), 1);
  params.top_k = 50;
  params.temperature = 0.0f;
  EXPECT_EQ(token(logits, params, 0), 1);
}

TEST(SampleToken, BiasMovesAndBans) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f};
  SampleRow params;
  params.temperature = 0.0f;
  const LogitBias ban[] = {{1, -100.0f}}, push[] = {{0, 100.0f}};
  params.logit_bias = ban;
  EXPECT_EQ(token(logits, params, 0), 2);
  params.logit_bias = push;
  EXPECT_EQ(token(logits, params, 0), 0);

  SampleRow random;
  random.logit_bias = ban;
  EXPECT_EQ(histogram(logits, random, 2000)[1], 0);
}

TEST(SampleToken, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, -kInf, 2.0f, 1.0f};
  SampleRow params;
  params.temperature = 2.0f;
  params.seed = 7;
  constexpr int kDraws = 40000;
  const std::vector<int> counts = histogram(logits, params, kDraws);
  double total = 0.0;
  for (const float logit : logits) total += std::exp(logit / 2.0);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / 2.0) / total;
    const double sigma = std::sqrt(p * (1 - p) / kDraws);
    EXPECT_NEAR(counts[i] / double{kDraws}, p, 4.5 * sigma) << "token " << i;
  }
}

TEST(SampleToken, TopKKeepsTheLargestLowestIdsFirst) {
  const std::vector<float> logits = {1.0f, 2.0f, 1.0f, 1.0f, 0.0f};
  SampleRow params;
  params.top_k = 2;
  const std::vector<int> counts = histogram(logits, params, 3000);
  EXPECT_GT(counts[0], 0);
  EXPECT_GT(counts[1], 0);
  EXPECT_EQ(counts[0] + counts[1], 3000);
}

TEST(SampleToken, TopPKeepsTheShortestSufficientPrefix) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0.0f, 0.0f};
  SampleRow params;
  params.top_p = 0.6f;
  std::vector<int> counts = histogram(logits, params, 3000);
  EXPECT_EQ(counts[0] + counts[1], 3000);
  EXPECT_NEAR(counts[1] / 3000.0, 1.0 / 3.0, 0.04);
  params.top_p = 0.0f;
  counts = histogram(logits, params, 100);
  EXPECT_EQ(counts[0], 100);
}

TEST(SampleToken, SeedsAndStepsAreIndependentAndRepeatable) {
  const std::vector<float> logits(100, 0.0f);
  SampleRow a, b;
  b.seed = 1;
  int same_seed = 0, other_seed = 0, next_step = 0;
  for (std::uint64_t step = 0; step < 500; ++step) {
    same_seed += token(logits, a, step) == token(logits, a, step);
    other_seed += token(logits, a, step) == token(logits, b, step);
    next_step += token(logits, a, step) == token(logits, a, step + 1);
  }
  EXPECT_EQ(same_seed, 500);
  EXPECT_LT(other_seed, 25);
  EXPECT_LT(next_step, 25);
}

TEST(SampleRow, LogprobsAreNormalisedAtTemperatureOneAndKnowNoBias) {
  const std::vector<float> logits = {0.5f, 80.0f, 79.0f, -kInf, 79.0f};
  const LogitBias push[] = {{2, 100.0f}};
  SampleRow row;
  row.temperature = 0.0f;
  row.num_logprobs = 3;
  row.logit_bias = push;
  SampledToken sampled = sample_row(logits, row);
  EXPECT_EQ(sampled.chosen.id, 2);
  const double total = 80.0 + std::log(1.0 + 2.0 * std::exp(-1.0) + std::exp(-79.5));
  EXPECT_NEAR(sampled.chosen.logprob, 79.0 - total, 1e-12);
  ASSERT_EQ(sampled.top.size(), 3u);
  EXPECT_EQ(sampled.top[0].id, 1);
  EXPECT_EQ(sampled.top[1].id, 2);
  EXPECT_EQ(sampled.top[2].id, 4);
  EXPECT_NEAR(sampled.top[0].logprob, 80.0 - total, 1e-12);
  row.num_logprobs = 50;
  EXPECT_EQ(sample_row(logits, row).top.size(), 5u);
}

TEST(SampleRow, FindsNanAndInfinity) {
  const auto fault = [](std::vector<float> logits) { return sample_row(logits, {}).fault; };
  EXPECT_EQ(fault({1.0f, -kInf}), LogitsFault::kNone);
  EXPECT_EQ(fault({1.0f, kInf}), LogitsFault::kInfinity);
  EXPECT_EQ(fault({-kInf, -kInf}), LogitsFault::kNothingFinite);
  const std::vector<float> nan = {0.0f, std::numeric_limits<float>::quiet_NaN()};
  const Status status = check_sampled(sample_row(nan, {}));
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("nan for token 1"), std::string::npos)
      << status.error().message;
  EXPECT_TRUE(check_sampled(sample_row(std::vector<float>{1.0f}, {})).ok());
}

}  // namespace
}  // namespace kv8
