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

TEST(Attention, HopperGetsItsOwnKernelsOthersThePortableOnes) {
  EXPECT_EQ(select_family(9, 0, "").value(), KernelFamily::kSm90);
  for (auto [major, minor] : {std::pair{8, 9}, {10, 0}, {10, 3}, {11, 0}, {12, 0}, {12, 1}}) {
    EXPECT_EQ(select_family(major, minor, "").value(), KernelFamily::kPortable);
  }
}

TEST(Attention, FamiliesCanBeForcedWhereTheyRun) {
  EXPECT_EQ(select_family(9, 0, "portable").value(), KernelFamily::kPortable);
  EXPECT_EQ(select_family(9, 0, "sm90").value(), KernelFamily::kSm90);
  EXPECT_EQ(select_family(8, 9, "portable").value(), KernelFamily::kPortable);
  for (auto [major, minor] : {std::pair{8, 9}, {10, 0}, {12, 0}}) {
    const auto other = select_family(major, minor, "sm90");
    ASSERT_FALSE(other.ok());
    EXPECT_NE(other.error().message.find("9.0 (Hopper"), std::string::npos);
  }
  const auto unknown = select_family(9, 0, "sm80");
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.error().message.find("\"sm80\"; there are sm90 and portable"),
            std::string::npos);
}

TEST(Attention, PortablePrefillMultipliesAsTheGpuDoes) {
  using portable::Products;
  const auto products = [](KvType type, int major, int minor) {
    return portable::select_kernel(type, type, 128, major, minor).value()->products;
  };
  for (auto [major, minor] : {std::pair{8, 9}, {12, 0}, {12, 1}}) {
    EXPECT_EQ(products(KvType::kE4m3, major, minor), Products::kE4m3);
  }
  for (auto [major, minor] : {std::pair{9, 0}, {10, 0}, {11, 0}, {13, 0}}) {
    EXPECT_EQ(products(KvType::kE4m3, major, minor), Products::kWidened);
  }
  EXPECT_EQ(products(KvType::kF16, 8, 9), Products::kF16);
  for (auto [major, minor] : {std::pair{8, 9}, {9, 0}, {12, 0}}) {
    const auto mixed = portable::select_kernel(KvType::kE4m3, KvType::kF16, 64, major, minor);
    EXPECT_EQ(mixed.value()->products, Products::kWidened) << "no E4M3 products with FP16 queries";
    EXPECT_EQ(mixed.value()->head_dim, 64);
  }
  const auto odd = portable::select_kernel(KvType::kE4m3, KvType::kE4m3, 96, 9, 0);
  ASSERT_FALSE(odd.ok());
  EXPECT_NE(odd.error().message.find("head_dim 96"), std::string::npos);
}

}  // namespace
}  // namespace kv8
