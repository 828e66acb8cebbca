#include <gtest/gtest.h>

#include "cpu/cpu_ops.h"
#include "cpu_test_util.h"
#include "ops/reference.h"
#include "ops/rope.h"

namespace kv8 {
namespace {

using testing::Random;
using testing::TestBatch;
using testing::TestCache;
using testing::TestWeight;

struct RopeCase {
  int num_heads, num_kv_heads, head_dim, elem_bytes;
  DType model_dtype;
  bool norms, per_head_scales, quantized_q;
  float k_limit = kE4m3Max, q_limit = kE4m3Max;
};

/// Codes and Q must be those of the reference, bit for bit.
void check_rope_kv(cpu::Workspace& workspace, const RopeCase& c, Random& random) {
  SCOPED_TRACE(fmt::format("heads {}/{} d {} bytes {} {} norms {} per head {} q8 {}", c.num_heads,
                           c.num_kv_heads, c.head_dim, c.elem_bytes, dtype_name(c.model_dtype),
                           c.norms, c.per_head_scales, c.quantized_q));
  TestBatch batch({{0, 3}, {63, 2}, {1000, 1}, {17, 64}}, random);
  const KvLayout layout{c.num_kv_heads, c.head_dim, c.elem_bytes};
  TestCache expected(layout, batch.num_pages, c.per_head_scales, c.quantized_q, random);
  TestCache got(layout, batch.num_pages, c.per_head_scales, c.quantized_q, random);
  expected.view.scales.k_limit = c.k_limit;
  expected.view.scales.q_limit = c.q_limit;
  got.view.scales = expected.view.scales;
  const std::int64_t q_cols = std::int64_t{c.num_heads} * c.head_dim;
  const std::int64_t kv_cols = std::int64_t{c.num_kv_heads} * c.head_dim;
  auto qkv = testing::random_floats(random, batch.rows * (q_cols + 2 * kv_cols), 2.0f);
  for (std::size_t i = 0; i < qkv.size(); i += 11) qkv[i] *= 1e3f;  // saturates
  const auto row = static_cast<std::size_t>(q_cols + 2 * kv_cols);
  qkv[row - 1] = std::numeric_limits<float>::quiet_NaN();
  qkv[row - 2] = std::numeric_limits<float>::infinity();
  qkv[row - 3] = -0.0f;
  qkv[row - 4] = 1e-6f;
  qkv[row - 5] = 1e38f;
  const TestWeight q_norm(DType::kBF16, testing::random_floats(random, c.norms ? c.head_dim : 0));
  const TestWeight k_norm(DType::kF32, testing::random_floats(random, c.norms ? c.head_dim : 0));
  const RopeTable table =
      make_rope_table({.theta = 10000.0, .head_dim = c.head_dim, .max_position = 4096}).value();
  std::vector<float> q_expected(static_cast<std::size_t>(batch.rows * q_cols)), q_got(q_expected);
  RopeKvWriteParams params{.qkv = qkv.data(),
                           .q_out = q_expected.data(),
                           .num_heads = c.num_heads,
                           .model_dtype = c.model_dtype,
                           .q_norm = q_norm.view(),
                           .k_norm = k_norm.view(),
                           .inv_freq = table.inv_freq.data(),
                           .rope_attention_factor = 1.1f,
                           .cache = expected.view,
                           .sequences = batch.slices.data(),
                           .num_sequences = static_cast<int>(batch.slices.size())};
  reference::rope_kv_write(params);
  const reference::RotatedQkv rotated = reference::rotate_qkv(params);

  params.q_out = q_got.data();
  params.cache = got.view;
  const auto angles = static_cast<std::size_t>(batch.rows * c.head_dim / 2);
  std::vector<float> cos(angles), sin(angles);
  cpu::rope_angles(workspace, params, cos.data(), sin.data());
  std::vector<float> tap_q(rotated.q.size()), tap_k(rotated.k.size()), tap_v(rotated.v.size());
  const cpu::QkvTap tap{tap_q.data(), tap_k.data(), tap_v.data()};
  cpu::rope_kv_write(workspace, params, {cos.data(), sin.data()}, &tap);

  EXPECT_EQ(got.k_bytes(), expected.k_bytes());
  EXPECT_EQ(got.v_bytes(), expected.v_bytes());
  const auto same_bits = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same_bits(q_got, q_expected));
  EXPECT_TRUE(same_bits(tap_q, rotated.q));
  EXPECT_TRUE(same_bits(tap_k, rotated.k));
  EXPECT_TRUE(same_bits(tap_v, rotated.v));
}

TEST(CpuRopeKvWrite, StoresTheReferencesCodesBitForBit) {
  cpu::Workspace workspace(2);
  testing::for_each_target([&] {
    Random random(21);
    for (const DType model : {DType::kF16, DType::kBF16}) {
      for (const bool norms : {false, true}) {
        check_rope_kv(workspace, {9, 3, 64, 1, model, norms, false, true}, random);
        check_rope_kv(workspace, {4, 4, 128, 1, model, norms, true, false}, random);
        check_rope_kv(workspace, {7, 1, 72, 1, model, norms, true, true}, random);
        check_rope_kv(workspace, {6, 2, 64, 1, model, norms, false, true, 28.0f, 14.0f}, random);
        check_rope_kv(workspace, {2, 1, 8, 2, model, norms, false, true}, random);
        check_rope_kv(workspace, {8, 2, 256, 2, model, norms, true, false}, random);
      }
    }
  });
}

}  // namespace
}  // namespace kv8
