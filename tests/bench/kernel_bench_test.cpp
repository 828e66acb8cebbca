#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "bench/decode.h"
#include "bench/kv_write.h"
#include "bench/plot.h"

namespace kv8::bench {
namespace {

TEST(KernelBench, DefaultShapesCoverTheTables) {
  const auto decode = decode_bench_shapes();
  EXPECT_EQ(decode.size(), 24u);
  EXPECT_TRUE(std::any_of(decode.begin(), decode.end(), [](const DecodeShapeSpec& s) {
    return s.batch == 64 && s.context == 131072;
  }));
  EXPECT_EQ(write_bench_shapes().size(), 22u);
}

TEST(KernelBench, ParsesShapesAndRefusesTheRest) {
  const auto decode = parse_decode_shape("28,4,128,2,777");
  ASSERT_TRUE(decode.ok());
  EXPECT_EQ(decode->num_heads, 28);
  EXPECT_EQ(decode->context, 777);
  const auto write = parse_write_shape("14,2,64,33");
  ASSERT_TRUE(write.ok());
  EXPECT_EQ(write->tokens, 33);
  for (const char* bad : {"", ",,,", "3,2,128,1", "4,2,128,0", "4,2,128,x", "4,2,128,1,5"}) {
    EXPECT_FALSE(parse_write_shape(bad).ok()) << bad;
  }
  EXPECT_FALSE(parse_decode_shape("4,2,128,1").ok());
}

TEST(KernelBench, ReportsCarryTheCommandAndEveryField) {
  DecodeBenchResult decode{
      "GPU", 3000.0, 3060.0, {{{32, 8, 128, 1, 4096}, 8388608, {20, 10, 5}, {18, 8, 4}}}, {}};
  decode.left_out.push_back({32, 8, 128, 64, 131072});
  const auto json = parse_json(decode_bench_json(decode, "kv8 bench decode"), "decode.json");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_EQ((*json)["command"], "kv8 bench decode");
  for (const char* name : {"num_heads", "num_kv_heads", "head_dim", "batch", "context",
                           "kv_bytes_fp8", "fp16_us", "fp8_us", "fp8_gb_s", "plain_read_us",
                           "fp16_clean_us", "fp8_clean_us", "plain_read_clean_us"}) {
    EXPECT_TRUE((*json)["rows"][0].contains(name)) << name;
  }
  EXPECT_EQ((*json)["hbm_read_gb_s"], 3000.0);
  EXPECT_EQ((*json)["hbm_read_clean_gb_s"], 3060.0);
  EXPECT_EQ((*json)["rows"][0]["fp8_us"], 10.0);
  EXPECT_EQ((*json)["rows"][0]["fp8_clean_us"], 8.0);
  EXPECT_NEAR((*json)["rows"][0]["fp8_gb_s"].get<double>(), 838.9, 0.05);
  EXPECT_NE(decode_bench_table(decode).find("context 131072: left out"), std::string::npos);
  EXPECT_NE(decode_bench_svg(decode).find("2.00x"), std::string::npos);
  const WriteBenchResult write{
      "GPU", 2800.0, {{{32, 8, 128, 1}, {6, 5, 4, 0.01}, {5.5, 4.5, 3.5, 0.02}}}};
  const auto write_json = parse_json(write_bench_json(write, "kv8 bench write"), "write.json");
  ASSERT_TRUE(write_json.ok()) << write_json.error().message;
  EXPECT_EQ((*write_json)["rows"][0]["fp8_us"], 5.0);
  EXPECT_EQ((*write_json)["copy_gb_s"], 2800.0);
  for (const char* name :
       {"num_heads", "num_kv_heads", "head_dim", "tokens", "fp16_us", "fp8_us", "fp8_gb_s",
        "plain_copy_us", "fp16_clean_us", "fp8_clean_us", "plain_copy_clean_us",
        "difference_error_us", "difference_error_clean_us"}) {
    EXPECT_TRUE((*write_json)["rows"][0].contains(name)) << name;
  }
  EXPECT_EQ((*write_json)["rows"][0]["plain_copy_us"], 4.0);
  EXPECT_EQ((*write_json)["rows"][0]["fp8_clean_us"], 4.5);
  EXPECT_NE(write_bench_svg(write).find("1.20x"), std::string::npos);
}

TEST(KernelBench, ChartEscapesLabels) {
  const std::string svg = ratio_chart_svg("a<b", {{"x&y", 0.5}});
  EXPECT_NE(svg.find("a&lt;b"), std::string::npos);
  EXPECT_NE(svg.find("x&amp;y"), std::string::npos);
}

}  // namespace
}  // namespace kv8::bench
