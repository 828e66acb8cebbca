#include "bench/fmha.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"

namespace kv8::bench {
namespace {

FmhaRow row(int head_dim, int length, double fp16, double fp8) {
  FmhaRow r;
  r.shape = {"Model \"x\"\\", 32, 8, head_dim, 4, length};
  r.fp16 = {fp16, fp16 - 1, fp16 + 1};
  r.fp8 = {fp8, fp8 - 1, fp8 + 1};
  r.score_type = "f16";
  r.fp8_tflops = 500;
  r.error = 1.9e-2;
  return r;
}

TEST(Fmha, DefaultShapesAreSixModelsThreeBatchesThreeLengthsAndLongRows) {
  const std::vector<FmhaShape> shapes = default_fmha_shapes();
  EXPECT_EQ(std::count_if(shapes.begin(), shapes.end(),
                          [](const FmhaShape& s) { return s.seq_len <= 4096; }),
            54);
  EXPECT_EQ(std::count_if(shapes.begin(), shapes.end(),
                          [](const FmhaShape& s) { return s.seq_len >= 16384; }),
            4);
}

TEST(Fmha, ParsesShapesAndRefusesTheRest) {
  const auto shape = parse_fmha_shape("28,4,128,2,777");
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(shape->num_heads, 28);
  EXPECT_EQ(shape->num_kv_heads, 4);
  EXPECT_EQ(shape->seq_len, 777);
  for (const char* bad : {"", "1,2,3", "3,2,128,1,5", "4,2,128,0,5", "4,2,128,1,-5", "4,2,128,1,5x",
                          "4,2,128,1,5,6", "99999999999,1,1,1,1", "4, 2,128,1,5"}) {
    EXPECT_FALSE(parse_fmha_shape(bad).ok()) << bad;
  }
}

TEST(Fmha, JsonHasEveryFieldAndNullForUnknownPeers) {
  FmhaResult result{"GPU", 1700.0, {row(128, 512, 20, 10)}};
  result.rows[0].peers["fa3_fp16_us"] = 15.5;
  const auto json = parse_json(fmha_json(result, "kv8 bench fmha"), "fmha.json");
  ASSERT_TRUE(json.ok()) << json.error().message;
  const Json& fields = (*json)["rows"][0];
  EXPECT_EQ(fields["model"], "Model \"x\"\\");
  EXPECT_EQ(fields["fa3_fp16_us"], 15.5);
  EXPECT_TRUE(fields["cudnn_fp8_us"].is_null());
  for (const char* name :
       {"num_heads", "num_kv_heads", "head_dim", "batch", "seq_len", "fp16_us", "fp8_us",
        "fp8_tflops", "fa3_fp8_us", "cudnn_fp16_us", "sm_clock_mhz", "score_type", "error"}) {
    EXPECT_TRUE(fields.contains(name)) << name;
  }
}

TEST(Fmha, F16QueriesAreReportedWhereTheyWereTimed) {
  FmhaResult result{"GPU", 1700.0, {row(128, 512, 20, 10), row(128, 1024, 20, 10)}};
  result.rows[1].f16_queries_us = 31.25;
  const auto json = parse_json(fmha_json(result, "kv8 bench fmha"), "fmha.json");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_FALSE((*json)["rows"][0].contains("fp8_f16_queries_us"));
  EXPECT_EQ((*json)["rows"][1]["fp8_f16_queries_us"], 31.25);
  EXPECT_NE(fmha_table(result).find("31.25 us with FP16 queries"), std::string::npos);
}

TEST(Fmha, TableComparesWithTheBestFp16KnownOfTheTableAlone) {
  FmhaResult result{
      "GPU", 1700.0, {row(128, 512, 20, 10), row(128, 1024, 10, 20), row(128, 16384, 1, 9)}};
  result.rows[0].peers["cudnn_fp16_us"] = 16.0;  // faster than our own 20
  const std::string table = fmha_table(result);
  // sqrt(16 / 10 * 10 / 20) = 0.894; the 16k row does not count.
  EXPECT_NE(
      table.find("head_dim 128: FP8 beats the best FP16 in 1 of 2 shapes, geometric mean 0.894x"),
      std::string::npos)
      << table;
  EXPECT_EQ(table.find("head_dim 64:"), std::string::npos);
}

TEST(Fmha, PlotHasABarForEveryRow) {
  const std::string svg = fmha_svg({"GPU", 1700.0, {row(128, 512, 20, 10), row(64, 512, 10, 20)}});
  EXPECT_NE(svg.find("2.00x"), std::string::npos);
  EXPECT_NE(svg.find("0.50x"), std::string::npos);
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
}

}  // namespace
}  // namespace kv8::bench
