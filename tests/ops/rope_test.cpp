#include "ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/json.h"

namespace kv8 {
namespace {

RopeConfig config_of(const Json& item) {
  RopeConfig config;
  config.head_dim = item["head_dim"].get<int>();
  config.theta = item["rope_theta"].get<double>();
  config.max_position = item["max_position_embeddings"].get<int>();
  const Json& fields = item["rope_scaling"];
  RopeScaling& scaling = config.scaling;
  const auto kind = fields["rope_type"].get<std::string>();
  if (kind == "linear") scaling.kind = RopeScalingKind::kLinear;
  if (kind == "dynamic") scaling.kind = RopeScalingKind::kDynamic;
  if (kind == "llama3") scaling.kind = RopeScalingKind::kLlama3;
  if (kind == "yarn") scaling.kind = RopeScalingKind::kYarn;
  scaling.factor = fields.value("factor", scaling.factor);
  scaling.low_freq_factor = fields.value("low_freq_factor", scaling.low_freq_factor);
  scaling.high_freq_factor = fields.value("high_freq_factor", scaling.high_freq_factor);
  scaling.beta_fast = fields.value("beta_fast", scaling.beta_fast);
  scaling.beta_slow = fields.value("beta_slow", scaling.beta_slow);
  scaling.attention_factor = fields.value("attention_factor", scaling.attention_factor);
  scaling.mscale = fields.value("mscale", scaling.mscale);
  scaling.mscale_all_dim = fields.value("mscale_all_dim", scaling.mscale_all_dim);
  scaling.truncate = fields.value("truncate", scaling.truncate);
  scaling.original_max_position = fields.value("original_max_position_embeddings", 0);
  return config;
}

// tools/golden/rope.py writes the file with transformers, which computes in FP32: hence the
// tolerance of a few units in the last place of FP32.
TEST(RopeTable, AgreesWithTransformers) {
  const Json golden = read_json_file(std::string(KV8_TEST_DATA) + "/golden/rope.json").value();
  ASSERT_GE(golden.size(), 10u);
  for (const Json& item : golden) {
    SCOPED_TRACE(item["rope_scaling"].dump());
    const RopeTable table = make_rope_table(config_of(item)).value();
    EXPECT_NEAR(table.attention_factor, item["attention_factor"].get<double>(), 2e-7);
    ASSERT_EQ(table.inv_freq.size(), item["inv_freq"].size());
    for (std::size_t i = 0; i < table.inv_freq.size(); ++i) {
      const double expected = item["inv_freq"][i].get<double>();
      EXPECT_NEAR(table.inv_freq[i], expected, 2e-6 * expected) << i;
    }
  }
}

TEST(RopeTable, YarnWithoutAnOriginalContextTakesTheModelsOwn) {
  RopeConfig config{.theta = 10000.0, .head_dim = 64, .max_position = 4096};
  config.scaling.kind = RopeScalingKind::kYarn;
  config.scaling.factor = 4.0;
  const RopeTable implied = make_rope_table(config).value();
  config.scaling.original_max_position = 4096;
  EXPECT_EQ(make_rope_table(config)->inv_freq, implied.inv_freq);
}

TEST(RopeTable, RefusesParametersThatCannotBeMeant) {
  const RopeConfig good{.theta = 10000.0, .head_dim = 64, .max_position = 4096};
  ASSERT_TRUE(make_rope_table(good).ok());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double theta : {0.0, -1.0, nan, HUGE_VAL, 1e-300}) {
    RopeConfig config = good;
    config.theta = theta;
    EXPECT_FALSE(make_rope_table(config).ok()) << theta;
  }
  for (const int head_dim : {0, -2, 63, 1 << 30}) {
    RopeConfig config = good;
    config.head_dim = head_dim;
    EXPECT_FALSE(make_rope_table(config).ok()) << head_dim;
  }
  for (const RopeScalingKind kind : {RopeScalingKind::kLinear, RopeScalingKind::kDynamic,
                                     RopeScalingKind::kLlama3, RopeScalingKind::kYarn}) {
    RopeConfig config = good;
    config.scaling.kind = kind;
    for (const double factor : {0.0, 0.5, -4.0, nan, HUGE_VAL}) {
      config.scaling.factor = factor;
      EXPECT_FALSE(make_rope_table(config).ok()) << factor;
    }
  }
  RopeConfig llama3 = good;
  llama3.scaling = {.kind = RopeScalingKind::kLlama3, .factor = 8.0};
  EXPECT_TRUE(make_rope_table(llama3).ok());
  llama3.scaling.high_freq_factor = 1.0;
  EXPECT_FALSE(make_rope_table(llama3).ok());
  llama3.scaling.high_freq_factor = 4.0;
  llama3.max_position = 0;
  EXPECT_FALSE(make_rope_table(llama3).ok());
  RopeConfig yarn = good;
  yarn.scaling = {.kind = RopeScalingKind::kYarn, .factor = 2.0, .beta_fast = 0.0};
  EXPECT_FALSE(make_rope_table(yarn).ok());
  yarn.scaling.beta_fast = 32.0;
  yarn.theta = 1.0;
  EXPECT_FALSE(make_rope_table(yarn).ok());
}

}  // namespace
}  // namespace kv8
