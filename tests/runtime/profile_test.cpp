#include "runtime/profile.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"

namespace kv8::runtime {
namespace {

StageStats stats_of(const std::vector<double>& samples) {
  StageTimes times;
  for (const double sample : samples) times.add(sample);
  return times.stats();
}

TEST(StageTimes, NearestRankAndPopulationDeviation) {
  std::vector<double> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(i);
  const StageStats stats = stats_of(samples);
  EXPECT_EQ(stats.count, 100);
  EXPECT_EQ(stats.min, 1.0);
  EXPECT_EQ(stats.max, 100.0);
  EXPECT_DOUBLE_EQ(stats.mean, 50.5);
  EXPECT_DOUBLE_EQ(stats.median, 50.5);
  EXPECT_EQ(stats.p95, 95.0);
  EXPECT_EQ(stats.p99, 99.0);
  EXPECT_DOUBLE_EQ(stats.total, 5050.0);
  EXPECT_NEAR(stats.stddev, 28.866070047722118, 1e-12);
  EXPECT_EQ(stats_of({}).count, 0);
  EXPECT_EQ(stats_of({3.0}).p99, 3.0);
  EXPECT_EQ(stats_of({5.0, 1.0, 3.0}).median, 3.0);
}

TEST(StageTimes, ManyTakeNoMoreMemoryAndKeepTheirShape) {
  StageTimes times;
  const int count = 1'000'000;
  for (int i = 0; i < count; ++i) times.add((static_cast<std::int64_t>(i) * 7919) % count);
  const StageStats stats = times.stats();
  EXPECT_EQ(stats.count, count);
  EXPECT_EQ(stats.min, 0.0);
  EXPECT_EQ(stats.max, count - 1.0);
  EXPECT_DOUBLE_EQ(stats.mean, (count - 1) / 2.0);
  EXPECT_NEAR(stats.stddev, count / std::sqrt(12.0), 1.0);
  EXPECT_NEAR(stats.median, 0.5 * count, 0.01 * count);
  EXPECT_NEAR(stats.p99, 0.99 * count, 0.01 * count);
}

TEST(WriteProfile, HasTheFieldsOfTheContract) {
  Profile profile;
  profile.backend = "cpu";
  profile.kv_cache_dtype = "fp8";
  profile.prefill.add(10.0);
  profile.prefill.add(30.0);
  profile.prefill_tokens = 80;
  profile.mixed.add(5.0);
  profile.mixed_prefill_tokens = 7;
  profile.mixed_decode_tokens = 3;
  profile.reused_tokens = 64;
  profile.decode_tokens = 10;
  profile.generation.add(100.0);
  profile.generated_tokens = 12;
  profile.kv_bytes_per_token_fp8 = 11520;
  profile.kv_bytes_per_token_fp16 = 23040;
  const std::string file = testing::TempDir() + "kv8_profile.json";
  ASSERT_TRUE(write_profile(profile, file).ok());
  const Result<Json> json = read_json_file(file);
  ASSERT_TRUE(json.ok());
  EXPECT_DOUBLE_EQ((*json)["prefill"]["tokens_per_second"].get<double>(), 2000.0);
  EXPECT_DOUBLE_EQ((*json)["generation"]["tokens_per_second"].get<double>(), 100.0);
  EXPECT_EQ((*json)["prefill"]["computed_tokens"], 87);
  EXPECT_EQ((*json)["prefill"]["reused_tokens"], 64);
  EXPECT_DOUBLE_EQ((*json)["mixed"]["tokens_per_second"].get<double>(), 2000.0);
  EXPECT_EQ((*json)["stages"].size(), 3u);
  EXPECT_EQ((*json)["stages"][0]["stage_id"], "prefill");
  EXPECT_DOUBLE_EQ((*json)["stages"][0]["total_gpu_time_ms"].get<double>(), 40.0);
  EXPECT_DOUBLE_EQ((*json)["stages"][0]["gpu_time_stats"]["median"].get<double>(), 20.0);
  EXPECT_EQ((*json)["kv_cache"]["bytes_per_token_fp16"], 23040);
  EXPECT_NE(profile_table(profile).find("2000.0 tokens/s"), std::string::npos);
}

}  // namespace
}  // namespace kv8::runtime
