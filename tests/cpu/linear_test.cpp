#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cpu_test_util.h"
#include "ops/reference.h"

namespace kv8 {
namespace {

using testing::Random;
using testing::TestWeight;

struct LinearCase {
  std::int64_t rows, in, out;
  DType weight, bias;
  bool has_bias, has_residual, in_place;
};

void check_linear(cpu::Workspace& workspace, const LinearCase& c, Random& random) {
  SCOPED_TRACE(fmt::format("{} x {} -> {}, weight {}, bias {}, residual {}{}", c.rows, c.in, c.out,
                           dtype_name(c.weight), c.has_bias, c.has_residual,
                           c.in_place ? " in place" : ""));
  const auto x = testing::random_floats(random, c.rows * c.in);
  const TestWeight weight(c.weight, testing::random_floats(random, c.out * c.in, 0.1f));
  const TestWeight bias(c.bias, testing::random_floats(random, c.has_bias ? c.out : 0));
  const auto residual = testing::random_floats(random, c.rows * c.out);
  std::vector<float> expected(static_cast<std::size_t>(c.rows * c.out)), got(residual);
  LinearParams params{.x = x.data(),
                      .weight = weight.view(),
                      .bias = bias.view(),
                      .residual = c.has_residual ? residual.data() : nullptr,
                      .out = expected.data(),
                      .rows = c.rows,
                      .in = c.in,
                      .out_features = c.out};
  reference::linear(params);
  params.out = got.data();
  if (c.has_residual && c.in_place) params.residual = got.data();
  cpu::linear(workspace, params);
  for (std::int64_t row = 0; row < c.rows; ++row) {
    for (std::int64_t out = 0; out < c.out; ++out) {
      double magnitude = 4.0;  // bias and residual
      for (std::int64_t i = 0; i < c.in; ++i) {
        magnitude += std::fabs(x[static_cast<std::size_t>(row * c.in + i)] *
                               weight.at(static_cast<std::size_t>(out * c.in + i)));
      }
      // The bound of FP32 summation in any order.
      const double tolerance = 0x1p-24 * static_cast<double>(c.in + 3) * magnitude;
      const auto index = static_cast<std::size_t>(row * c.out + out);
      ASSERT_NEAR(got[index], expected[index], tolerance) << "row " << row << " feature " << out;
    }
  }
}

TEST(CpuLinear, AgreesWithTheReferenceForOddShapes) {
  cpu::Workspace workspace(2);
  testing::for_each_target([&] {
    Random random(11);
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33}) {
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
        check_linear(workspace, {rows, 64, 48, dtype, DType::kF32, false, false, false}, random);
        check_linear(workspace, {rows, 37, 29, dtype, DType::kF16, true, true, rows % 2 == 0},
                     random);
        check_linear(workspace, {rows, 136, 131, dtype, DType::kBF16, rows % 3 == 0, true, true},
                     random);
        check_linear(workspace, {rows, 1, 1, dtype, DType::kF32, true, false, false}, random);
      }
    }
  });
}

TEST(CpuLinear, ModelSizedShapes) {
  cpu::Workspace workspace(3);
  Random random(12);
  for (const std::int64_t rows : {1, 7, 40}) {
    check_linear(workspace, {rows, 576, 960, DType::kF16, DType::kF16, false, false, false},
                 random);
    check_linear(workspace, {rows, 1536, 576, DType::kBF16, DType::kF16, false, true, true},
                 random);
  }
}

TEST(CpuLinear, CarriesNanAndInfinityToTheirRowsAlone) {
  cpu::Workspace workspace(2);
  for (const std::int64_t rows : {3, 20}) {
    std::vector<float> x(static_cast<std::size_t>(rows * 64), 0.5f);
    x[64 + 3] = std::numeric_limits<float>::quiet_NaN();
    x[128 + 5] = std::numeric_limits<float>::infinity();
    const TestWeight weight(DType::kF16, std::vector<float>(64 * 20, 1.0f));
    std::vector<float> out(static_cast<std::size_t>(rows * 20));
    cpu::linear(workspace, {.x = x.data(),
                            .weight = weight.view(),
                            .out = out.data(),
                            .rows = rows,
                            .in = 64,
                            .out_features = 20});
    for (std::size_t i = 0; i < 20; ++i) {
      EXPECT_EQ(out[i], 32.0f);
      EXPECT_TRUE(std::isnan(out[20 + i]));
      EXPECT_TRUE(std::isinf(out[40 + i]));
    }
  }
}

}  // namespace
}  // namespace kv8
