#include "runtime/profile.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace kv8::runtime {
namespace {

TEST(Summarize, NearestRankAndPopulationDeviation) {
  std::vector<double> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(i);
  const StageStats stats = summarize(samples);
  EXPECT_EQ(stats.count, 100);
  EXPECT_EQ(stats.min, 1.0);
  EXPECT_EQ(stats.max, 100.0);
  EXPECT_DOUBLE_EQ(stats.mean, 50.5);
  EXPECT_DOUBLE_EQ(stats.median, 50.5);
  EXPECT_EQ(stats.p95, 95.0);
  EXPECT_EQ(stats.p99, 99.0);
  EXPECT_DOUBLE_EQ(stats.total, 5050.0);
  EXPECT_NEAR(stats.stddev, 28.866070047722118, 1e-12);
  EXPECT_EQ(summarize({}).count, 0);
  EXPECT_EQ(summarize({3.0}).p99, 3.0);
  EXPECT_EQ(summarize({5.0, 1.0, 3.0}).median, 3.0);
}

TEST(WriteProfile, HasTheFieldsOfTheContract) {
  Profile profile;
  profile.backend = "cpu";
  profile.kv_cache_dtype = "fp8";
  profile.stage_ms["prefill"] = {10.0, 30.0};
  profile.prefill_tokens = 80;
  profile.prefill_ms = 40.0;
  profile.decode_tokens = 10;
  profile.generation_ms = 100.0;
  profile.generated_tokens = 12;
  profile.kv_bytes_per_token_fp8 = 11520;
  profile.kv_bytes_per_token_fp16 = 23040;
  const std::string file = testing::TempDir() + "kv8_profile.json";
  ASSERT_TRUE(write_profile(profile, file).ok());
  const Result<Json> json = read_json_file(file);
  ASSERT_TRUE(json.ok());
  EXPECT_DOUBLE_EQ((*json)["prefill"]["tokens_per_second"].get<double>(), 2000.0);
  EXPECT_DOUBLE_EQ((*json)["generation"]["tokens_per_second"].get<double>(), 100.0);
  EXPECT_EQ((*json)["stages"][0]["stage_id"], "prefill");
  EXPECT_DOUBLE_EQ((*json)["stages"][0]["total_gpu_time_ms"].get<double>(), 40.0);
  EXPECT_DOUBLE_EQ((*json)["stages"][0]["gpu_time_stats"]["median"].get<double>(), 20.0);
  EXPECT_EQ((*json)["kv_cache"]["bytes_per_token_fp16"], 23040);
  EXPECT_NE(profile_table(profile).find("2000.0 tokens/s"), std::string::npos);
}

}  // namespace
}  // namespace kv8::runtime
