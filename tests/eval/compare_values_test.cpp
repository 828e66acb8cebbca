#include "eval/compare_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/temp_dir.h"
#include "support/expect_error.h"
#include "support/fp8_checkpoint.h"
#include "support/tiny_checkpoint.h"

namespace kv8::eval {
namespace {

Recording recording_of(const std::string& name, std::int64_t cols, std::vector<float> values) {
  Recording recording;
  recording.names = {name};
  RecordedValues& all = recording.values[name];
  all.rows = static_cast<std::int64_t>(values.size()) / cols;
  all.cols = cols;
  all.values = std::move(values);
  return recording;
}

TEST(CompareValues, FindsTheWorstCoordinate) {
  const Recording a = recording_of("x", 3, {1, -8, 3, 4, 5, 6});
  const Recording b = recording_of("x", 3, {1, -8, 3.5, 4, 5, 8});
  const ValueComparison comparison = compare_values(a, b).value();
  ASSERT_EQ(comparison.differences.size(), 1u);
  const ValueDifference& d = comparison.differences[0];
  EXPECT_EQ(d.max_error, 2.0);
  EXPECT_EQ(d.relative_error, 0.25);
  EXPECT_EQ(d.worst_row, 1);
  EXPECT_EQ(d.worst_col, 2);
  EXPECT_EQ(d.worst_a, 6.0f);
  EXPECT_EQ(d.worst_b, 8.0f);
  EXPECT_DOUBLE_EQ(d.rms_error, std::sqrt(4.25 / 151));
  EXPECT_EQ(first_beyond(comparison, 0.25), nullptr);
  EXPECT_EQ(first_beyond(comparison, 0.24), &d);
}

TEST(CompareValues, WhatIsNotFiniteNeverPasses) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity}) {
    for (const bool both : {false, true}) {
      const Recording a = recording_of("x", 2, {1, 2, both ? bad : 3, 4});
      const Recording b = recording_of("x", 2, {1, 2, bad, 4});
      const ValueComparison comparison = compare_values(a, b).value();
      const ValueDifference* first = first_beyond(comparison, 1e30);
      ASSERT_NE(first, nullptr);
      EXPECT_EQ(first->worst_row, 1);
      EXPECT_EQ(first->worst_col, 0);
      EXPECT_TRUE(std::isinf(first->rms_error));
    }
  }
}

TEST(CompareValues, ZerosAreEqualToZerosOnly) {
  const Recording zeros = recording_of("x", 2, {0, 0});
  EXPECT_EQ(first_beyond(compare_values(zeros, zeros).value(), 0.0), nullptr);
  const Recording other = recording_of("x", 2, {0, 1e-30f});
  EXPECT_NE(first_beyond(compare_values(zeros, other).value(), 1e30), nullptr);
}

TEST(CompareValues, NamesOfOneSideAndOtherSizes) {
  const Recording a = recording_of("x", 2, {1, 2}), b = recording_of("y", 2, {1, 2});
  const ValueComparison comparison = compare_values(a, b).value();
  EXPECT_TRUE(comparison.differences.empty());
  EXPECT_THAT(comparison.only_in_a, testing::ElementsAre("x"));
  EXPECT_THAT(comparison.only_in_b, testing::ElementsAre("y"));
  test::expect_error(compare_values(a, recording_of("x", 1, {1, 2})), {"[1, 2]", "[2, 1]"});
}

class RecordValues : public testing::Test {
 protected:
  RecordValues() {
    test::make_tiny_checkpoint("qwen3", dir_ / "plain");
    test::make_fp8_checkpoint(dir_ / "plain", dir_ / "fp8", 4, 64);
    for (int i = 0; i < 70; ++i) ids_.push_back(8 + i * 37 % 200);
  }
  Recording record(const RunSettings& settings) {
    return record_values(io::Checkpoint::open(dir_ / "fp8").value(), ids_, settings).value();
  }

  test::TempDir dir_;
  std::vector<std::int32_t> ids_;
};

TEST_F(RecordValues, HoldsEveryStepOfEveryToken) {
  const Recording whole = record({.num_threads = 1});
  const io::Checkpoint checkpoint = io::Checkpoint::open(dir_ / "fp8").value();
  const auto layers = static_cast<std::size_t>(checkpoint.config().num_layers);
  // Nine steps and q, k, v a layer; rows chosen, the last norm and the logits, twice, behind them.
  ASSERT_EQ(whole.names.size(), 12 * layers + 4);
  EXPECT_EQ(whole.names.back(), "logits without taps");
  EXPECT_EQ(whole.values.at(whole.names.back()).values,
            whole.values.at(whole.names[whole.names.size() - 2]).values);
  std::int32_t last = 0;
  for (const std::string& name : whole.names) {
    const RecordedValues& values = whole.values.at(name);
    EXPECT_EQ(values.rows, 70) << name;
    if (values.layer == kNone) continue;
    EXPECT_GE(values.layer, last) << name;
    last = values.layer;
  }
  EXPECT_EQ(last, checkpoint.config().num_layers - 1);
  EXPECT_EQ(whole.values.at(whole.names.back()).layer, kNone);

  // Other chunks sum in another order.
  const Recording chunks = record({.num_threads = 2, .prefill = 66});
  const ValueComparison comparison = compare_values(whole, chunks).value();
  EXPECT_EQ(comparison.differences.size(), whole.names.size());
  EXPECT_EQ(first_beyond(comparison, 5e-3), nullptr) << first_beyond(comparison, 5e-3)->name;
  EXPECT_EQ(first_beyond(compare_values(whole, record({.num_threads = 1})).value(), 0.0), nullptr);
}

TEST_F(RecordValues, AnFp8CacheIsFirstSeenInTheFirstAttention) {
  const ValueComparison comparison =
      compare_values(record({.num_threads = 1}),
                     record({.kv_fp8 = true, .q_dtype = DType::kF16, .num_threads = 1}))
          .value();
  const ValueDifference* first = first_beyond(comparison, 1e-3);
  ASSERT_NE(first, nullptr);
  EXPECT_THAT(first->name, testing::HasSubstr("attention of layer 0"));
  EXPECT_GT(comparison.differences.back().relative_error, 1e-3);
  EXPECT_EQ(first->layer, 0);
}

TEST_F(RecordValues, FirstLayersAreAModelOfTheirOwn) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(dir_ / "fp8").value();
  const io::Checkpoint one = checkpoint.first_layers(1).value();
  const Recording recording = record_values(one, ids_, {.num_threads = 1}).value();
  EXPECT_EQ(recording.names.size(), 12u + 4);
  test::expect_error(checkpoint.first_layers(99), {"99 layers"});
  test::expect_error(checkpoint.first_layers(0), {"0 layers"});
}

}  // namespace
}  // namespace kv8::eval
