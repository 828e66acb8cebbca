// The references are what everything else is tested against, so they are tested on cases whose
// answers are known.
#include "ops/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "formats/float_formats.h"

namespace kv8 {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(ReferenceRmsNorm, KnownValues) {
  const std::vector<float> x = {3.0f, 4.0f, 0.0f, 0.0f};
  const std::vector<std::uint16_t> weight = {0x3C00, 0x4000};  // 1, 2
  std::vector<float> out(4);
  reference::rms_norm({.x = x.data(),
                       .weight = {DType::kF16, weight.data()},
                       .out = out.data(),
                       .rows = 2,
                       .cols = 2,
                       .eps = 0.0f});
  EXPECT_FLOAT_EQ(out[0], 3.0f / std::sqrt(12.5f));
  EXPECT_FLOAT_EQ(out[1], 8.0f / std::sqrt(12.5f));
  EXPECT_TRUE(std::isnan(out[2]));  // 0 / 0 without eps
}

TEST(ReferenceLinear, BiasAndResidual) {
  const std::vector<float> x = {1.0f, 2.0f};
  const std::vector<float> weight = {1.0f, 10.0f, -1.0f, 0.5f, 0.0f, 3.0f};
  const std::vector<float> bias = {100.0f, 200.0f, 300.0f};
  std::vector<float> out = {0.25f, 0.5f, 0.75f};
  reference::linear({.x = x.data(),
                     .weight = {DType::kF32, weight.data()},
                     .bias = {DType::kF32, bias.data()},
                     .residual = out.data(),
                     .out = out.data(),
                     .rows = 1,
                     .in = 2,
                     .out_features = 3});
  EXPECT_EQ(out, (std::vector<float>{121.25f, 200.5f, 306.75f}));
}

TEST(ReferenceSwiGlu, KnownValues) {
  const std::vector<float> gate_up = {0.0f, 1.0f, -200.0f, 5.0f, 2.0f, 3.0f};
  std::vector<float> out(3);
  reference::swiglu({.gate_up = gate_up.data(), .out = out.data(), .rows = 1, .cols = 3});
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_FLOAT_EQ(out[1], 2.0f / (1.0f + std::exp(-1.0f)));
  EXPECT_NEAR(out[2], 0.0f, 1e-30f);
}

/// One KV head of 8 dimensions, one query head, two tokens in pages {1, 0}.
struct SmallCache {
  explicit SmallCache(int elem_bytes)
      : k(static_cast<std::size_t>(2 * 64 * 8 * elem_bytes), 0x7F), v(k) {
    view.layout = {1, 8, elem_bytes};
    view.k = k.data();
    view.v = v.data();
    view.scales = {&k_scale, &v_scale, nullptr, 1};
  }
  std::vector<std::uint8_t> k, v;  // unused slots are E4M3 NaN
  float k_scale = 0.5f, v_scale = 0.25f;
  KvCacheView view;
};

TEST(ReferenceRopeKvWrite, RotatesRoundsAndStores) {
  SmallCache cache(1);
  const std::vector<float> inv_freq = {1.0f, 0.5f, 0.25f, 0.125f};
  std::vector<float> qkv(24);
  qkv[0] = 1.0f;       // q: dimension 0 only
  qkv[8 + 5] = 2.0f;   // k: dimension 5, the partner of 1
  qkv[16 + 7] = 0.3f;  // v: not rotated
  qkv[16 + 0] = 1e6f;  // saturates (after rounding to infinity in FP16)
  qkv[16 + 1] = kNan;
  std::vector<float> q_out(8);
  const std::vector<std::int32_t> pages = {1, 0};
  const SequenceSlice slice{0, 1, 66, pages.data()};
  const RopeKvWriteParams params{.qkv = qkv.data(),
                                 .q_out = q_out.data(),
                                 .num_heads = 1,
                                 .model_dtype = DType::kF16,
                                 .inv_freq = inv_freq.data(),
                                 .cache = cache.view,
                                 .sequences = &slice,
                                 .num_sequences = 1};
  reference::rope_kv_write(params);
  const auto half = [](double x) { return f16_to_float(f16_from_float(static_cast<float>(x))); };
  EXPECT_EQ(q_out[0], half(std::cos(66.0)));
  EXPECT_EQ(q_out[4], half(std::sin(66.0)));
  // Token 66 is slot 2 of page 0.
  EXPECT_EQ(cache.k[2 * 8 + 5],
            e4m3_from_float(half(2.0f * static_cast<float>(std::cos(33.0))) / 0.5f));
  EXPECT_EQ(cache.k[2 * 8 + 1],
            e4m3_from_float(half(-2.0f * static_cast<float>(std::sin(33.0))) / 0.5f));
  EXPECT_EQ(cache.v[7 * 64 + 4], e4m3_from_float(half(0.3f) / 0.25f));  // token 2 -> position 4
  EXPECT_EQ(cache.v[0 * 64 + 4], 0x7E);
  EXPECT_EQ(cache.v[1 * 64 + 4], 0x7F);
  EXPECT_EQ(cache.k[3 * 8], 0x7F) << "slots of other tokens are left alone";

  const float q_scale = 0.01f;
  RopeKvWriteParams quantized = params;
  quantized.cache.scales.q = &q_scale;
  reference::rope_kv_write(quantized);
  EXPECT_EQ(q_out[0], e4m3_to_float(e4m3_from_float(half(std::cos(66.0)) / q_scale)) * q_scale);
}

TEST(ReferenceAttention, AveragesWhatTheRowMaySeeAndNothingElse) {
  for (const int elem_bytes : {1, 2}) {
    SmallCache cache(elem_bytes);
    const KvLayout& layout = cache.view.layout;
    if (elem_bytes == 2) {  // FP16 NaN everywhere
      std::fill(cache.k.begin(), cache.k.end(), std::uint8_t{0x7F});
      std::fill(cache.v.begin(), cache.v.end(), std::uint8_t{0x7F});
    }
    const std::vector<std::int32_t> pages = {1};
    const auto put = [&](void* memory, std::int64_t offset, float value, float scale) {
      if (elem_bytes == 1) {
        static_cast<std::uint8_t*>(memory)[offset] = e4m3_from_float(value / scale);
      } else {
        static_cast<std::uint16_t*>(memory)[offset] = f16_from_float(value);
      }
    };
    for (int token = 0; token < 2; ++token) {
      for (int dim = 0; dim < 8; ++dim) {
        put(cache.k.data(), layout.k_offset(1, 0, token, dim), token == 0 ? 0.0f : 1.0f, 0.5f);
        put(cache.v.data(), layout.v_offset(1, 0, token, dim), token == 0 ? 2.0f : 4.0f, 0.25f);
      }
    }
    std::vector<float> q(16, 0.25f), out(16);
    const SequenceSlice slice{0, 2, 0, pages.data()};
    reference::attention({.q = q.data(),
                          .out = out.data(),
                          .num_heads = 1,
                          .softmax_scale = 0.5f,
                          .cache = cache.view,
                          .sequences = &slice,
                          .num_sequences = 1});
    EXPECT_EQ(out[0], 2.0f) << "the first row sees the first token alone";
    const double weight = std::exp(1.0) / (1.0 + std::exp(1.0));  // scores 0 and 0.5 * 8 * 0.25
    EXPECT_FLOAT_EQ(out[8], static_cast<float>(2.0 + 2.0 * weight));
  }
}

}  // namespace
}  // namespace kv8
