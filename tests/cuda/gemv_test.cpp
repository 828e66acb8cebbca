#include <gtest/gtest.h>

#include <cmath>

#include "cuda/dense/gemv/entry.h"
#include "cuda/dense/gemv/launch.h"
#include "cuda/dense_testing.h"
#include "cuda/gpu.h"
#include "ops/reference.h"

namespace kv8 {
namespace {

using cuda_testing::DeviceArray;
using cuda_testing::ModelType;
using cuda_testing::normal_values;

struct Case {
  int rows = 1, in = 256, out = 64;
  bool bf16 = false, f32_out = false, bias = false, residual = false;
  bool norm = false, norm_f32 = false, swiglu = false;
  int shared_bytes = 0;  ///< of the device that the kernel is chosen for; 0: the one at hand
};

/// One random problem; x is FP32 where the norm is fused.
struct Problem {
  explicit Problem(const Case& c, std::uint32_t seed = 1) : c(c), type(c.bf16) {
    std::mt19937 random(seed);
    const std::size_t outputs = static_cast<std::size_t>(c.out);
    const std::size_t matrix_rows = outputs * (c.swiglu ? 2 : 1);
    x = normal_values(std::size_t(c.rows) * c.in, 1.5f, random);
    if (!c.norm) x = type.widen(type.narrow(x));
    weight = type.narrow(normal_values(matrix_rows * c.in, 0.05f, random));
    bias = type.narrow(normal_values(outputs, 1.0f, random));
    residual = normal_values(c.rows * outputs, 2.0f, random);
    norm = normal_values(c.in, 0.3f, random);
    for (float& w : norm) w += 1.0f;
    if (!c.norm_f32) norm = type.widen(type.narrow(norm));
  }
  Case c;
  ModelType type;
  std::vector<float> x, residual, norm;
  std::vector<std::uint16_t> weight, bias;
};

std::vector<float> run(const Problem& p) {
  const Case& c = p.c;
  DeviceArray<float> x_f32(p.x), residual(p.residual), norm_f32(p.norm);
  DeviceArray<std::uint16_t> x(p.type.narrow(p.x)), weight(p.weight), bias(p.bias);
  DeviceArray<std::uint16_t> norm(p.type.narrow(p.norm));
  DeviceArray<std::uint16_t> out(std::vector<std::uint16_t>(p.residual.size(), 0x7e7e));
  GemvArgs a;
  a.x = c.norm ? static_cast<const void*>(x_f32.get()) : x.get();
  a.weight = weight.get();
  if (c.bias) a.bias = bias.get();
  if (c.residual) a.residual = residual.get();
  a.out = c.f32_out ? static_cast<void*>(residual.get()) : out.get();  // in place
  if (c.norm) a.norm_weight = c.norm_f32 ? static_cast<const void*>(norm_f32.get()) : norm.get();
  a.norm_weight_f32 = c.norm_f32;
  a.norm_eps = 1e-5f;
  a.rows = c.rows;
  a.in = c.in;
  a.out_features = c.out;
  a.bf16 = c.bf16;
  a.f32_out = c.f32_out;
  a.swiglu = c.swiglu;
  if (c.shared_bytes > 0) {
    EXPECT_EQ(gemv::start_gemv(a, {16, c.shared_bytes}, nullptr), cudaSuccess);
  } else {
    const Status status = launch_gemv(a, nullptr);
    EXPECT_TRUE(status.ok()) << status.error().message;
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return c.f32_out ? residual.values() : p.type.widen(out.values());
}

/// What the kernel multiplies: x, or the reference's norm of it rounded to the model's type.
std::vector<float> reference_x(const Problem& p) {
  if (!p.c.norm) return p.x;
  std::vector<float> normed(p.x.size());
  RmsNormParams params;
  params.x = p.x.data();
  params.weight = {DType::kF32, p.norm.data()};
  params.out = normed.data();
  params.rows = p.c.rows;
  params.cols = p.c.in;
  params.eps = 1e-5f;
  reference::rms_norm(params);
  return p.type.widen(p.type.narrow(normed));
}

/// Bound of the error of a sum of products in FP32, of which every warp adds its part 16 at a time,
/// and of a norm that was rounded the other way for a quarter of x.
double sum_error(const Problem& p, const std::vector<float>& x, int row, std::int64_t weight_row) {
  double sum = 0.0, squares = 0.0;
  for (int i = 0; i < p.c.in; ++i) {
    const double product = static_cast<double>(x[std::size_t(row) * p.c.in + i]) *
                           p.type.widen(p.weight[weight_row * p.c.in + i]);
    sum += std::abs(product);
    squares += product * product;
  }
  const double steps = p.c.in / 256.0 + 16.0;
  return steps * 0x1p-23 * sum + (p.c.norm ? p.type.unit() * std::sqrt(squares) : 0.0);
}

void expect_close(const Problem& p, const std::vector<float>& got, const std::string& what) {
  const Case& c = p.c;
  const std::vector<float> x = reference_x(p);
  const int matrix_rows = c.out * (c.swiglu ? 2 : 1);
  std::vector<float> product(std::size_t(c.rows) * matrix_rows);
  LinearParams params;
  params.x = x.data();
  params.weight = {p.type.dtype(), p.weight.data()};
  if (c.bias) params.bias = {p.type.dtype(), p.bias.data()};
  if (c.residual) params.residual = p.residual.data();
  params.out = product.data();
  params.rows = c.rows;
  params.in = c.in;
  params.out_features = matrix_rows;
  reference::linear(params);
  std::vector<float> want = product;
  if (c.swiglu) {
    want.resize(std::size_t(c.rows) * c.out);
    reference::swiglu({product.data(), want.data(), c.rows, c.out});
  }
  int wrong = 0;
  for (int row = 0; row < c.rows; ++row) {
    for (int o = 0; o < c.out; ++o) {
      const std::size_t at = std::size_t(row) * c.out + o;
      double bound = sum_error(p, x, row, o);
      if (c.swiglu) {
        const double gate = product[std::size_t(row) * matrix_rows + o];
        const double up = product[std::size_t(row) * matrix_rows + c.out + o];
        bound = 1.1 * bound * std::abs(up) + std::abs(gate) * sum_error(p, x, row, c.out + o) +
                0x1p-20 * std::abs(want[at]);
      }
      bound += std::abs(want[at]) * (c.f32_out ? 0x1p-22 : p.type.unit()) + 1e-7;
      if (!(std::abs(got[at] - want[at]) <= bound) && wrong++ < 3) {
        ADD_FAILURE() << what << ": row " << row << ", output " << o << ": " << got[at] << " for "
                      << want[at] << ", bound " << bound;
      }
    }
  }
  EXPECT_EQ(wrong, 0) << what;
}

std::string name(const Case& c) {
  return std::to_string(c.rows) + " x " + std::to_string(c.in) + " -> " + std::to_string(c.out) +
         (c.bf16 ? " BF16" : " FP16") + (c.f32_out ? " FP32 out" : "") + (c.bias ? " bias" : "") +
         (c.residual ? " residual" : "") + (c.norm ? " norm" : "") + (c.swiglu ? " swiglu" : "");
}

void check(const Case& c) {
  const Problem p(c);
  expect_close(p, run(p), name(c));
}

TEST(GemvTest, EveryVariantAndNumberOfRows) {
  KV8_NEEDS_GPU();
  for (int rows = 1; rows <= kGemvMaxRows; ++rows) {
    for (int bits = 0; bits < 64; ++bits) {
      Case c;
      c.rows = rows;
      c.in = 576;
      c.out = 101;
      c.bf16 = bits & 1;
      c.f32_out = bits & 2;
      c.norm = bits & 4;
      c.norm_f32 = c.norm && (bits & 8);
      c.bias = bits & 16;
      c.residual = c.f32_out && (bits & 32);
      check(c);
      c.swiglu = true;
      c.bias = c.residual = false;
      if (bits < 16) check(c);
    }
  }
}

TEST(GemvTest, OddSizes) {
  KV8_NEEDS_GPU();
  for (int in : {8, 24, 64, 72, 504, 520, 1536, 4096}) {
    for (int out : {1, 7, 8, 9, 577, 2047}) {
      for (int rows : {1, 3, 8}) {
        if (std::int64_t{in} * out * rows > 4 << 20) continue;  // the reference takes its time
        Case c;
        c.rows = rows;
        c.in = in;
        c.out = out;
        c.norm = in % 16 == 0;
        check(c);
        c.swiglu = true;
        check(c);
      }
    }
  }
}

TEST(GemvTest, LongRowsFitNoSharedMemory) {
  KV8_NEEDS_GPU();
  for (int in : {12288, 18944, 28672}) {
    for (int rows : {1, 4, 8}) {
      Case c;
      c.rows = rows;
      c.in = in;
      c.out = 21;
      c.f32_out = c.residual = true;
      check(c);
      c.f32_out = c.residual = false;
      c.swiglu = true;
      check(c);
    }
  }
}

TEST(GemvTest, DevicesWithLessSharedMemory) {
  KV8_NEEDS_GPU();
  for (int rows : {1, 2, 5, 8}) {
    for (int bits = 0; bits < 8; ++bits) {
      Case c;
      c.rows = rows;
      c.in = 2056;
      c.out = 333;
      c.norm = bits & 1;
      c.swiglu = bits & 2;
      c.bf16 = bits & 4;
      c.shared_bytes = 99 << 10;
      check(c);
    }
  }
}

TEST(GemvTest, NormsOfLongRowsBesideASmallerRing) {
  KV8_NEEDS_GPU();
  Case c;
  c.rows = 8;
  c.in = 8192;
  c.out = 50;
  c.norm = c.norm_f32 = true;
  check(c);
}

TEST(GemvTest, BadWeightsStayInTheirOutputAndBadRowsInTheirRow) {
  KV8_NEEDS_GPU();
  Case c;
  c.rows = 5;
  c.in = 328;
  c.out = 40;
  c.f32_out = true;
  Problem p(c);
  p.weight[17 * c.in + 5] = p.type.narrow(NAN);
  p.weight[18 * c.in + 327] = p.type.narrow(INFINITY);
  for (int i = 0; i < c.in; ++i) p.x[3 * c.in + i] = NAN;
  const std::vector<float> got = run(p);
  for (int row = 0; row < c.rows; ++row) {
    for (int o = 0; o < c.out; ++o) {
      const bool bad = row == 3 || o == 17 || o == 18;
      EXPECT_EQ(std::isfinite(got[row * c.out + o]), !bad) << row << ", " << o;
    }
  }
}

TEST(GemvTest, RunsAgreeBitForBit) {
  KV8_NEEDS_GPU();
  Case c;
  c.rows = 8;
  c.in = 4096;
  c.out = 3000;
  c.norm = true;
  const Problem p(c);
  const std::vector<float> first = run(p);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(p), first);
}

TEST(GemvTest, RefusesWhatItCannotDo) {
  KV8_NEEDS_GPU();
  DeviceArray<float> memory(4096);
  GemvArgs good;
  good.x = good.weight = memory.get();
  good.out = memory.get();
  good.rows = 1;
  good.in = good.out_features = 8;
  const auto refused = [&](auto change) {
    GemvArgs a = good;
    change(a);
    return !launch_gemv(a, nullptr).ok();
  };
  EXPECT_TRUE(refused([](GemvArgs& a) { a.x = nullptr; }));
  EXPECT_TRUE(refused([](GemvArgs& a) { a.rows = 9; }));
  EXPECT_TRUE(refused([](GemvArgs& a) { a.rows = 0; }));
  EXPECT_TRUE(refused([](GemvArgs& a) { a.in = 12; }));
  EXPECT_TRUE(refused([](GemvArgs& a) { a.out_features = 0; }));
  EXPECT_TRUE(refused([&](GemvArgs& a) { a.residual = memory.get(); }));
  EXPECT_TRUE(refused([&](GemvArgs& a) { a.weight = memory.get() + 1; }));
  EXPECT_TRUE(refused([&](GemvArgs& a) { a.swiglu = true, a.bias = memory.get(); }));
  EXPECT_TRUE(refused([&](GemvArgs& a) {
    a.norm_weight = memory.get();
    a.rows = 8;
    a.in = 1 << 20;
  }));
  EXPECT_GE(gemv_max_norm_columns(1).value(), 4096);
  EXPECT_EQ(gemv_max_norm_columns(kGemvMaxRows).value(), 0);
  EXPECT_FALSE(gemv_max_norm_columns(kGemvMaxRows + 1).ok());
}

}  // namespace
}  // namespace kv8
