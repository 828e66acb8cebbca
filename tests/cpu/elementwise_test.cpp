#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cpu_test_util.h"
#include "ops/reference.h"

namespace kv8 {
namespace {

using testing::Random;
using testing::TestWeight;

TEST(CpuRmsNorm, AgreesWithTheReference) {
  cpu::Workspace workspace(2);
  testing::for_each_target([&] {
    Random random(5);
    for (const std::int64_t cols : {1, 8, 15, 64, 576, 577}) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const std::int64_t rows = 5;
        auto x = testing::random_floats(random, rows * cols, 3.0f);
        std::fill_n(x.begin(), cols, 0.0f);  // a row of zeros
        for (std::int64_t i = 0; i < cols; ++i) x[static_cast<std::size_t>(cols + i)] *= 1e15f;
        const TestWeight weight(dtype, testing::random_floats(random, cols));
        std::vector<float> expected(x.size()), got(x.size());
        RmsNormParams params{.x = x.data(),
                             .weight = weight.view(),
                             .out = expected.data(),
                             .rows = rows,
                             .cols = cols,
                             .eps = 1e-5f};
        reference::rms_norm(params);
        params.out = got.data();
        cpu::rms_norm(workspace, params);
        for (std::size_t i = 0; i < x.size(); ++i) {
          // A sum of squares has no cancellation: relative error (cols / lanes + some) ulps.
          ASSERT_NEAR(got[i], expected[i], std::fabs(expected[i]) * 0x1p-23 * (8.0 + cols / 4.0))
              << i << " of " << cols;
        }
        params.x = got.data();  // in place
        params.out = got.data();
        cpu::rms_norm(workspace, params);
        EXPECT_EQ(got[0], 0.0f);
      }
    }
  });
}

TEST(CpuSwiGlu, AgreesWithTheReferenceOverTheWholeRange) {
  cpu::Workspace workspace(2);
  testing::for_each_target([&] {
    const std::int64_t cols = 40001, rows = 2;
    std::vector<float> gate_up(static_cast<std::size_t>(rows * 2 * cols), 1.0f);
    for (std::int64_t i = 0; i < cols; ++i) {
      gate_up[static_cast<std::size_t>(i)] = static_cast<float>(i - cols / 2) * 0.005f;
      gate_up[static_cast<std::size_t>(2 * cols + i)] =
          std::ldexp(i % 2 == 0 ? 1.37f : -1.37f, static_cast<int>(i % 200) - 100);
    }
    std::vector<float> expected(static_cast<std::size_t>(rows * cols)), got(expected);
    SwiGluParams params{gate_up.data(), expected.data(), rows, cols};
    reference::swiglu(params);
    params.out = got.data();
    cpu::swiglu(workspace, params);
    for (std::size_t i = 0; i < got.size(); ++i) {
      // Below exp's smallest normal result the product is zero instead of a tiny number.
      ASSERT_NEAR(got[i], expected[i], std::fabs(expected[i]) * 1e-6 + 2e-36) << i;
    }
  });
}

TEST(CpuSwiGlu, SpecialValues) {
  cpu::Workspace workspace(1);
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> gate_up = {
      inf, std::numeric_limits<float>::quiet_NaN(), -1e30f, 1e30f, 1.0f, 1.0f, 1.0f, 1.0f};
  std::vector<float> out(4);
  cpu::swiglu(workspace, {gate_up.data(), out.data(), 1, 4});
  EXPECT_EQ(out[0], inf);
  EXPECT_TRUE(std::isnan(out[1]));
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(out[3], 1e30f);
}

}  // namespace
}  // namespace kv8
