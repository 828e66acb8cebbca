// The front door: which kernels serve which GPU.
#include "cuda/attention/attention.h"

#include <gtest/gtest.h>

#include <limits>

namespace kv8 {
namespace {

TEST(Attention, HalfScoresNeedAProof) {
  EXPECT_EQ(score_type_for(14, 14, 128, 0.02f), ScoreType::kF16);
  EXPECT_EQ(score_type_for(448, 448, 128, 0.02f), ScoreType::kF32);
  // The bound itself: 128 * 22.6 * 22.6 = 65,377 and 128 * 22.63 * 22.63 = 65,550.
  EXPECT_EQ(score_type_for(22.6f, 22.6f, 128, 0.02f), ScoreType::kF16);
  EXPECT_EQ(score_type_for(22.63f, 22.63f, 128, 0.02f), ScoreType::kF32);
  EXPECT_EQ(score_type_for(22.63f, 22.63f, 64, 0.02f), ScoreType::kF16);
  EXPECT_EQ(score_type_for(14, 14, 128, 1e-6f), ScoreType::kF32) << "scale below FP16's normals";
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(score_type_for(nan, 14, 128, 0.02f), ScoreType::kF32);
  EXPECT_EQ(score_type_for(14, 14, 128, nan), ScoreType::kF32);
  EXPECT_EQ(score_type_for(std::numeric_limits<float>::infinity(), 0, 128, 0.02f), ScoreType::kF32);
}

TEST(Attention, DevicesBelowAdaAreToldWhatTheyNeed) {
  const auto turing = select_family(7, 5, "");
  ASSERT_FALSE(turing.ok());
  EXPECT_EQ(turing.error().message,
            "FP8 KV needs compute capability 8.9 or newer (Ada, Hopper, Blackwell); this is 7.5");
  EXPECT_FALSE(select_family(8, 6, "").ok());
  EXPECT_FALSE(select_family(8, 6, "sm90").ok());
}

TEST(Attention, HopperGetsItsOwnKernels) {
  EXPECT_EQ(select_family(9, 0, "").value(), KernelFamily::kSm90);
  EXPECT_EQ(select_family(9, 0, "sm90").value(), KernelFamily::kSm90);
  for (auto [major, minor] : {std::pair{8, 9}, {10, 0}, {12, 0}}) {
    const auto other = select_family(major, minor, "");
    ASSERT_FALSE(other.ok());
    EXPECT_NE(other.error().message.find("9.0 (Hopper"), std::string::npos);
  }
}

TEST(Attention, UnknownFamiliesAreRefused) {
  const auto unknown = select_family(9, 0, "sm80");
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.error().message.find("\"sm80\""), std::string::npos);
}

}  // namespace
}  // namespace kv8
