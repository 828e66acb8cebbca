#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "cuda/dense/rows/launch.h"
#include "cuda/gpu.h"
#include "cuda/kv_write/launch.h"
#include "formats/float_formats.h"
#include "ops/reference.h"

namespace kv8 {
namespace {

using cuda_testing::DeviceArray;

struct Case {
  std::vector<int> rows, past;  ///< of each sequence
  int num_heads = 8, num_kv_heads = 2, head_dim = 128;
  bool bf16 = false, fp8 = true, fp8_q = true, scale_per_head = false, norm = false;
  bool offsets = false, hadamard = false, nasty = false;
  float scale = 0.0123f;
  std::vector<int> positions;  ///< of each row, -1 = padding; empty: as the slots
  bool every_value = false;    ///< V takes all bit patterns in turn
  float q_limit = 448.0f, k_limit = 448.0f;
  bool dependent = false;  ///< qkv is written by kernels that the launch overlaps
};

/// One random problem: the same inputs for the kernel and for the reference.
struct Problem {
  Case c;
  int total_rows = 0, max_pages = 0, num_pages = 0, columns = 0;
  std::vector<std::uint16_t> qkv, q_norm, k_norm;
  std::vector<std::int32_t> table, cu_rows, kv_lens;
  std::vector<float> k_scale, v_scale, q_scale, k_offset, v_offset;
  std::vector<std::uint8_t> pool;  ///< what K's and V's pool hold before
  RopeTable rope;
  KvLayout layout;

  float widen(std::uint16_t bits) const {
    return c.bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  }
  std::uint16_t narrow(float x) const { return c.bf16 ? bf16_from_float(x) : f16_from_float(x); }
  float rounded(float x) const { return widen(narrow(x)); }
};

Problem make_problem(const Case& c, std::uint32_t seed) {
  Problem p;
  p.c = c;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  p.layout = {c.num_kv_heads, c.head_dim, c.fp8 ? 1 : 2};
  p.columns = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
  p.cu_rows = {0};
  for (std::size_t b = 0; b < c.rows.size(); ++b) {
    p.cu_rows.push_back(p.cu_rows.back() + c.rows[b]);
    p.kv_lens.push_back(c.past[b] + c.rows[b]);
    const int pages = static_cast<int>(pages_for_tokens(p.kv_lens[b]));
    p.max_pages = std::max(p.max_pages, pages);
    p.num_pages += pages;
  }
  p.total_rows = p.cu_rows.back();
  p.num_pages += 2;
  std::vector<std::int32_t> order(p.num_pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  p.table.assign(c.rows.size() * p.max_pages, 0x7fffffff);
  int used = 0;
  for (std::size_t b = 0; b < c.rows.size(); ++b) {
    for (int i = 0; i < pages_for_tokens(p.kv_lens[b]); ++i) {
      p.table[b * p.max_pages + i] = order[used++];
    }
  }
  p.qkv.resize(std::size_t(p.total_rows) * p.columns);
  const float nasty[] = {INFINITY, -INFINITY, NAN,   0.0f,   -0.0f,
                         65504.0f, -65504.0f, 6e-8f, 1e-30f, 3e38f};
  for (std::uint16_t& x : p.qkv) {
    x = p.narrow(c.nasty && random() % 8 == 0 ? nasty[random() % 10] : 3.0f * normal(random));
  }
  const std::size_t first_v = std::size_t(c.num_heads + c.num_kv_heads) * c.head_dim;
  std::uint16_t pattern = 0;
  for (std::size_t i = 0; i < p.qkv.size() && c.every_value; ++i) {
    if (i % p.columns >= first_v) p.qkv[i] = pattern++;
  }
  for (auto* norm : {&p.q_norm, &p.k_norm}) {
    for (int i = 0; i < c.head_dim; ++i) norm->push_back(p.narrow(1.0f + 0.3f * normal(random)));
  }
  for (int h = 0; h < c.num_kv_heads; ++h) {
    const float factor = c.scale_per_head ? 1.0f + 0.37f * h : 1.0f;
    p.k_scale.push_back(c.scale * factor);
    p.v_scale.push_back(c.scale * 1.7f * factor);
    p.q_scale.push_back(c.scale * 0.9f);
  }
  for (int i = 0; i < c.num_kv_heads * c.head_dim; ++i) {
    p.k_offset.push_back(normal(random));
    p.v_offset.push_back(normal(random));
  }
  p.pool.resize(std::size_t(p.num_pages) * p.layout.page_elements() * p.layout.elem_bytes);
  for (auto& x : p.pool) x = static_cast<std::uint8_t>(random());
  RopeConfig config;
  config.head_dim = c.head_dim;
  config.max_position = 1 << 17;
  config.scaling.kind = RopeScalingKind::kYarn;
  config.scaling.factor = 4.0;
  config.scaling.original_max_position = 4096;
  p.rope = make_rope_table(config).value();
  return p;
}

struct Written {
  std::vector<std::uint8_t> k, v;
  std::vector<float> q;  ///< codes' values, not scaled
};

std::vector<float> transformed(const Problem& p, std::vector<float> x, const float* offset,
                               bool hadamard) {
  const int d = p.c.head_dim;
  for (int i = 0; i < d; ++i) {
    x[i] = p.rounded(x[i]);
    if (offset != nullptr) x[i] -= offset[i];
  }
  if (!hadamard) return x;
  for (int stride = 1; stride < d; stride *= 2) {
    for (int i = 0; i < d; ++i) {
      if ((i & stride) != 0) continue;
      const float a = x[i], b = x[i + stride];
      x[i] = a + b;
      x[i + stride] = a - b;
    }
  }
  const float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
  for (float& value : x) value *= factor;
  return x;
}

std::uint8_t code_of(float x, float scale, float limit) {
  const float quotient = x / scale;
  return e4m3_from_float(std::isnan(quotient) ? quotient : std::clamp(quotient, -limit, limit));
}

void store(const Problem& p, std::vector<std::uint8_t>& pool, std::int64_t at, float x, float scale,
           float limit) {
  if (p.c.fp8) {
    pool[at] = code_of(x, scale, limit);
  } else {
    const std::uint16_t bits = f16_from_float(x);
    std::memcpy(&pool[2 * at], &bits, 2);
  }
}

Written reference_write(const Problem& p) {
  const Case& c = p.c;
  std::vector<float> qkv(p.qkv.size());
  for (std::size_t i = 0; i < qkv.size(); ++i) qkv[i] = p.widen(p.qkv[i]);
  RopeKvWriteParams params;
  params.qkv = qkv.data();
  params.num_heads = c.num_heads;
  params.model_dtype = c.bf16 ? DType::kBF16 : DType::kF16;
  if (c.norm) {
    params.q_norm = {params.model_dtype, p.q_norm.data()};
    params.k_norm = {params.model_dtype, p.k_norm.data()};
  }
  params.inv_freq = p.rope.inv_freq.data();
  params.rope_attention_factor = p.rope.attention_factor;
  params.cache.layout = p.layout;
  // Positions of their own: a row is rotated as if it were a sequence.
  std::vector<SequenceSlice> slices;
  for (std::size_t b = 0; b < c.rows.size(); ++b) {
    const std::int32_t* table = &p.table[b * p.max_pages];
    if (c.positions.empty()) slices.push_back({p.cu_rows[b], c.rows[b], c.past[b], table});
    for (int row = p.cu_rows[b]; row < p.cu_rows[b + 1] && !c.positions.empty(); ++row) {
      slices.push_back({row, 1, std::max(c.positions[row], 0), table});
    }
  }
  params.sequences = slices.data();
  params.num_sequences = static_cast<int>(slices.size());
  const reference::RotatedQkv rotated = reference::rotate_qkv(params);
  const auto head = [&](const std::vector<float>& x, std::int64_t at) {
    return std::vector<float>(x.begin() + at * c.head_dim, x.begin() + (at + 1) * c.head_dim);
  };
  Written w{p.pool, p.pool, {}};
  for (std::size_t b = 0; b < c.rows.size(); ++b) {
    for (int i = 0; i < c.rows[b]; ++i) {
      const std::int64_t row = p.cu_rows[b] + i;
      const int index = c.past[b] + i, slot = index % kPageTokens;
      const std::int64_t page = p.table[b * p.max_pages + index / kPageTokens];
      if (!c.positions.empty() && c.positions[row] < 0) {
        w.q.insert(w.q.end(), std::size_t(c.num_heads) * c.head_dim, 0.0f);
        continue;
      }
      for (int h = 0; h < c.num_heads; ++h) {
        const auto x = transformed(p, head(rotated.q, row * c.num_heads + h), nullptr, c.hadamard);
        for (float value : x) {
          w.q.push_back(c.fp8_q ? e4m3_to_float(code_of(value, p.q_scale[0], c.q_limit))
                                : f16_to_float(f16_from_float(value)));
        }
      }
      for (int h = 0; h < c.num_kv_heads; ++h) {
        const int offset = h * c.head_dim;
        const auto k = transformed(p, head(rotated.k, row * c.num_kv_heads + h),
                                   c.offsets ? &p.k_offset[offset] : nullptr, c.hadamard);
        const auto v = transformed(p, head(rotated.v, row * c.num_kv_heads + h),
                                   c.offsets ? &p.v_offset[offset] : nullptr, false);
        for (int d = 0; d < c.head_dim; ++d) {
          store(p, w.k, p.layout.k_offset(page, h, slot, d), k[d], p.k_scale[h], c.k_limit);
          store(p, w.v, p.layout.v_offset(page, h, slot, d), v[d], p.v_scale[h], 448.0f);
        }
      }
    }
  }
  return w;
}

/// Launches behind kernels that fill qkv with NaN and then with what `source` holds, many times.
Status launch_dependent(KvWriteArgs args, const Problem& p, void* qkv) {
  DeviceArray<std::uint16_t> source(p.qkv);
  std::vector<std::int32_t> rows(p.total_rows);
  std::iota(rows.begin(), rows.end(), 0);
  DeviceArray<std::int32_t> ids(rows), none(std::vector<std::int32_t>(rows.size(), -1));
  args.dependent_launch = true;
  for (int turn = 0; turn < 50; ++turn) {
    SelectRowsArgs fill{source.get(), none.get(), qkv, p.total_rows, p.total_rows};
    fill.row_bytes = 2 * p.columns;
    fill.dependent_launch = true;
    KV8_TRY(launch_select_rows(fill, nullptr));
    fill.ids = ids.get();
    KV8_TRY(launch_select_rows(fill, nullptr));
    KV8_TRY(launch_kv_write(args, nullptr));
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return {};
}

/// One for every head of a row of qkv.
std::vector<KvScale> scales_of_heads(const Problem& p) {
  std::vector<KvScale> scales(p.c.num_heads, make_kv_scale(p.q_scale[0]));
  for (float scale : p.k_scale) scales.push_back(make_kv_scale(scale));
  for (float scale : p.v_scale) scales.push_back(make_kv_scale(scale));
  return scales;
}

Written kernel_write(const Problem& p) {
  const Case& c = p.c;
  int positions = *std::max_element(p.kv_lens.begin(), p.kv_lens.end());
  for (int position : c.positions) positions = std::max(positions, position + 1);
  const RopeAngleTable angles = make_rope_angles(p.rope, positions);
  DeviceArray<std::uint16_t> qkv(p.qkv), q_norm(p.q_norm), k_norm(p.k_norm);
  DeviceArray<std::int32_t> table(p.table), cu_rows(p.cu_rows), kv_lens(p.kv_lens);
  DeviceArray<std::int32_t> row_positions(c.positions);
  const std::vector<KvScale> scales = scales_of_heads(p);
  DeviceArray<KvScale> head_scales(scales);
  DeviceArray<float> k_offset(p.k_offset), v_offset(p.v_offset), cos(angles.cos), sin(angles.sin);
  DeviceArray<std::uint8_t> k(p.pool), v(p.pool);
  const std::size_t q_elements = std::size_t(p.total_rows) * c.num_heads * c.head_dim;
  DeviceArray<std::uint8_t> q(std::vector<std::uint8_t>(q_elements * (c.fp8_q ? 1 : 2), 0x55));
  KvWriteArgs a;
  a.qkv = qkv.get();
  a.q_out = q.get();
  a.k_pool = k.get();
  a.v_pool = v.get();
  a.page_table = table.get();
  a.cu_rows = cu_rows.get();
  a.kv_lens = kv_lens.get();
  if (!c.positions.empty()) a.positions = row_positions.get();
  a.cos = cos.get();
  a.sin = sin.get();
  if (c.norm) a.q_norm = q_norm.get(), a.k_norm = k_norm.get();
  if (c.offsets) a.k_offset = k_offset.get(), a.v_offset = v_offset.get();
  a.hadamard = c.hadamard;
  if (c.fp8_q) a.scales[0] = scales[0];
  if (c.fp8) a.scales[1] = scales[c.num_heads], a.scales[2] = scales.back();
  if (c.fp8 && c.scale_per_head) a.head_scales = head_scales.get();
  a.q_limit = c.q_limit;
  a.k_limit = c.k_limit;
  a.batch = static_cast<int>(c.rows.size());
  a.rows = p.total_rows;
  a.max_rows_per_sequence = *std::max_element(c.rows.begin(), c.rows.end());
  a.num_heads = c.num_heads;
  a.num_kv_heads = c.num_kv_heads;
  a.head_dim = c.head_dim;
  a.max_pages = p.max_pages;
  a.bf16 = c.bf16;
  a.fp8_cache = c.fp8;
  a.fp8_q = c.fp8_q;
  const Status status =
      c.dependent ? launch_dependent(a, p, qkv.get()) : launch_kv_write(a, nullptr);
  EXPECT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  Written w{k.values(), v.values(), {}};
  const auto bytes = q.values();
  for (std::size_t i = 0; i < q_elements; ++i) {
    std::uint16_t half = 0;
    if (!c.fp8_q) std::memcpy(&half, &bytes[2 * i], 2);
    w.q.push_back(c.fp8_q ? e4m3_to_float(bytes[i]) : f16_to_float(half));
  }
  return w;
}

/// FP16's NaNs are any NaN.
bool same_word(const Problem& p, const std::vector<std::uint8_t>& x,
               const std::vector<std::uint8_t>& y, std::size_t i) {
  if (p.c.fp8) return x[i] == y[i];
  std::uint16_t a, b;
  std::memcpy(&a, &x[i & ~std::size_t{1}], 2);
  std::memcpy(&b, &y[i & ~std::size_t{1}], 2);
  return a == b || (std::isnan(f16_to_float(a)) && std::isnan(f16_to_float(b)));
}

void expect_same(const Case& c, const std::string& what) {
  static std::uint32_t seed = 1;
  const Problem p = make_problem(c, ++seed);
  const Written want = reference_write(p), got = kernel_write(p);
  std::int64_t wrong_k = 0, wrong_v = 0, wrong_q = 0;
  for (std::size_t i = 0; i < want.k.size(); ++i) {
    wrong_k += !same_word(p, want.k, got.k, i);
    wrong_v += !same_word(p, want.v, got.v, i);
  }
  for (std::size_t i = 0; i < want.q.size(); ++i) {
    const bool same = want.q[i] == got.q[i] ? std::signbit(want.q[i]) == std::signbit(got.q[i])
                                            : std::isnan(want.q[i]) && std::isnan(got.q[i]);
    wrong_q += !same;
  }
  EXPECT_EQ(wrong_k, 0) << what << ": K";
  EXPECT_EQ(wrong_v, 0) << what << ": V";
  EXPECT_EQ(wrong_q, 0) << what << ": Q";
}

TEST(KvWriteTest, EveryVariantWritesTheReferencesCodes) {
  KV8_NEEDS_GPU();
  for (int bits = 0; bits < 64; ++bits) {
    Case c;
    c.bf16 = bits & 1;
    c.fp8 = bits & 2;
    c.fp8_q = c.fp8 && (bits & 4);
    c.head_dim = bits & 8 ? 64 : 128;
    c.norm = bits & 16;
    const bool decode = bits & 32;
    c.rows = decode ? std::vector<int>{1, 1, 1} : std::vector<int>{100, 1, 37};
    c.past = {13, 63, 64};
    c.scale_per_head = decode;
    expect_same(c, "variant " + std::to_string(bits));
  }
}

TEST(KvWriteTest, CodesSaturateAtTheirLimits) {
  KV8_NEEDS_GPU();
  for (int bits = 0; bits < 16; ++bits) {
    Case c;
    c.head_dim = bits & 1 ? 64 : 128;
    c.rows = bits & 2 ? std::vector<int>{1, 1, 1} : std::vector<int>{70, 1, 9};
    c.past = {13, 63, 64};
    c.nasty = bits & 4;
    c.scale = bits & 8 ? 0.125f : 0.2f;  // values of 3 deviate by 15 to 25 codes
    c.q_limit = 14.0f;
    c.k_limit = 28.0f;
    expect_same(c, "limits " + std::to_string(bits));
  }
}

TEST(KvWriteTest, TransformsComeBetweenRopeAndRounding) {
  KV8_NEEDS_GPU();
  for (int bits = 1; bits < 32; ++bits) {
    Case c;
    c.offsets = bits & 1;
    c.hadamard = bits & 2;
    c.head_dim = bits & 4 ? 64 : 128;
    c.fp8 = c.fp8_q = !(bits & 8);
    c.num_kv_heads = 4;
    c.rows = bits & 16 ? std::vector<int>{3, 3} : std::vector<int>{70, 90};
    c.past = {5, 60};
    c.scale_per_head = true;
    expect_same(c, "transform " + std::to_string(bits));
  }
}

TEST(KvWriteTest, ChunksStartAndEndAnywhere) {
  KV8_NEEDS_GPU();
  for (bool fp8 : {true, false}) {
    for (int past : {0, 1, 7, 15, 16, 17, 48, 63, 64, 65, 127}) {
      for (int rows : {1, 2, 8, 9, 15, 16, 17, 31, 63, 64, 65, 130}) {
        Case c;
        c.fp8 = c.fp8_q = fp8;
        c.rows = {rows};
        c.past = {past};
        expect_same(c, std::to_string(rows) + " rows behind " + std::to_string(past));
      }
    }
  }
}

TEST(KvWriteTest, RaggedBatchWithEmptySequences) {
  KV8_NEEDS_GPU();
  Case c;
  for (int b = 0; b < 70; ++b) {
    c.rows.push_back(b % 5 == 3 ? 0 : 1 + b * 7 % 40);
    c.past.push_back(b * 13 % 150);
  }
  c.num_kv_heads = 1;
  c.head_dim = 64;
  expect_same(c, "ragged");
}

TEST(KvWriteTest, FewRowsAsManyOfEachSequenceOrNot) {
  KV8_NEEDS_GPU();
  for (const std::vector<int>& rows :
       {std::vector<int>{3, 1, 5}, {7, 7, 7}, {2, 2, 2}, {0, 1, 0}}) {
    for (int bits = 0; bits < 8; ++bits) {
      Case c;
      c.fp8 = c.fp8_q = bits & 1;
      c.head_dim = bits & 2 ? 64 : 128;
      c.scale_per_head = bits & 4;
      c.num_heads = 6;  // no whole number of warps
      c.num_kv_heads = 3;
      c.rows = rows;
      c.past = {61, 0, 200};
      expect_same(c, std::to_string(rows[0]) + " rows, bits " + std::to_string(bits));
    }
  }
}

/// 133 and 200 sequences: blocks of one warp and of four.
TEST(KvWriteTest, ManySequencesOfOneRow) {
  KV8_NEEDS_GPU();
  for (int sequences : {133, 200}) {
    for (int bits = 0; bits < 4; ++bits) {
      Case c;
      c.fp8 = c.fp8_q = bits & 1;
      c.head_dim = bits & 2 ? 64 : 128;
      for (int b = 0; b < sequences; ++b) c.rows.push_back(1), c.past.push_back(b * 13 % 150);
      expect_same(c, std::to_string(sequences) + " sequences, bits " + std::to_string(bits));
    }
  }
}

TEST(KvWriteTest, DependentLaunchWaitsForItsRows) {
  KV8_NEEDS_GPU();
  for (int bits = 0; bits < 8; ++bits) {
    Case c;
    c.dependent = true;
    c.fp8 = c.fp8_q = bits & 1;
    c.rows = bits & 2 ? std::vector<int>{1, 1, 1} : std::vector<int>{200, 70};
    c.past.assign(c.rows.size(), 61);
    c.scale_per_head = bits & 4;
    expect_same(c, "dependent " + std::to_string(bits));
  }
}

TEST(KvWriteTest, TreeTokensHavePositionsAndPadding) {
  KV8_NEEDS_GPU();
  std::mt19937 random(5);
  for (int bits = 0; bits < 16; ++bits) {
    Case c;
    c.fp8 = c.fp8_q = bits & 1;
    c.head_dim = bits & 2 ? 64 : 128;
    c.norm = bits & 4;
    c.rows = bits & 8 ? std::vector<int>{5, 5, 5} : std::vector<int>{60, 1, 128};
    c.past = {13, 62, 120};
    for (std::size_t b = 0; b < c.rows.size(); ++b) {
      for (int i = 0; i < c.rows[b]; ++i) {
        const bool pads = i > 0 && random() % 6 == 0;
        c.positions.push_back(pads ? -1 : c.past[b] + static_cast<int>(random() % 8));
      }
    }
    expect_same(c, "tree " + std::to_string(bits));
  }
}

/// One product instead of a division must lead to the same codes for all values that the model's
/// type has: scales at random, and scales that put a midpoint between codes next to a value.
TEST(KvWriteTest, EveryValueOfTheModelsTypeAtManyScales) {
  KV8_NEEDS_GPU();
  std::mt19937 random(11);
  for (int i = 0; i < 24; ++i) {
    Case c;
    c.every_value = true;
    c.bf16 = i % 2 == 1;
    c.num_heads = c.num_kv_heads = 2;
    // 65,536 elements of V
    c.rows = i % 3 == 2 ? std::vector<int>(256, 1) : std::vector<int>{256};
    c.past.assign(c.rows.size(), 0);
    const float value = static_cast<float>(1024 + random() % 1024);
    const float midpoint = static_cast<float>(2 * (random() % 16) + 1);
    float scale = std::ldexp(value / midpoint, -17);
    const int units = static_cast<int>(random() % 25) - 12;
    for (int u = 0; u < std::abs(units); ++u)
      scale = std::nextafter(scale, units > 0 ? 9.0f : 0.0f);
    c.scale = (i < 8 ? static_cast<float>(random() % 1000 + 1) / 33333.0f : scale) / 1.7f;
    expect_same(c, "scale " + std::to_string(c.scale));
  }
}

TEST(KvWriteTest, NastyValuesAndScales) {
  KV8_NEEDS_GPU();
  for (float scale : {0.0123f, 1.0f, 448.0f, 0x1p-70f, 0x1p70f, 1e-40f, 1.0000001f, 0.99999994f}) {
    for (bool bf16 : {false, true}) {
      Case c;
      c.bf16 = bf16;
      c.nasty = true;
      c.scale = scale;
      c.past = {3, 100};
      for (const std::vector<int>& rows : {std::vector<int>{50, 2}, {2, 2}}) {
        c.rows = rows;
        expect_same(c, "scale " + std::to_string(scale));
      }
    }
  }
}

TEST(KvWriteTest, ScalesThatClaimItLeadToTheQuotientsCodes) {
  std::mt19937 random(3);
  int plain = 0, claimed = 0;
  for (int i = 0; i < 200; ++i) {
    float scale = static_cast<float>(random() % 1000000 + 1) / 33333333.0f;
    if (i % 2 == 1) {  // a midpoint next to a value
      const float value = static_cast<float>(1024 + random() % 1024);
      scale = std::ldexp(value / static_cast<float>(2 * (random() % 16) + 1), -17);
      const int units = static_cast<int>(random() % 13) - 6;
      for (int u = 0; u < std::abs(units); ++u) {
        scale = std::nextafter(scale, units > 0 ? 9.0f : 0.0f);
      }
    }
    const KvScale made = make_kv_scale(scale);
    EXPECT_EQ(made.scale, scale);
    plain += i % 2 == 0;
    claimed += i % 2 == 0 && made.inverse > 0.0f;
    int wrong = 0;
    for (int x = 1024; x < 2048 && made.inverse > 0.0f; ++x) {
      for (int exponent = -30; exponent < 5; ++exponent) {
        const float value = std::ldexp(static_cast<float>(x), exponent);
        wrong += e4m3_from_float(value * made.inverse) != e4m3_from_float(value / scale);
      }
    }
    EXPECT_EQ(wrong, 0) << scale;
  }
  EXPECT_GT(claimed, plain * 9 / 10);
  for (float scale : {0x1p-70f, 0x1p70f, 1e-40f}) EXPECT_LT(make_kv_scale(scale).inverse, 0.0f);
}

TEST(KvWriteTest, RefusesAnFp8CacheWithoutScales) {
  alignas(16) std::int32_t some[4] = {};
  KvWriteArgs a;
  a.qkv = a.q_out = a.k_pool = a.v_pool = some;
  a.cos = a.sin = reinterpret_cast<const float*>(some);
  a.page_table = a.cu_rows = a.kv_lens = some;
  a.scales[1] = a.scales[2] = make_kv_scale(0.1f);
  const Status status = launch_kv_write(a, nullptr);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("scale of Q"), std::string::npos) << status.error().message;
}

}  // namespace
}  // namespace kv8
