#include <gtest/gtest.h>

#include <algorithm>

#include "cpu/cpu_ops.h"
#include "cpu_test_util.h"
#include "ops/reference.h"

namespace kv8 {
namespace {

using testing::Random;
using testing::TestBatch;
using testing::TestCache;

struct AttentionCase {
  int num_heads, num_kv_heads, head_dim, elem_bytes;
  bool per_head_scales;
};

/// Fills the slots of existing tokens with values that use the format's range.
void fill_cache(const TestBatch& batch, TestCache& cache, Random& random) {
  const KvLayout& layout = cache.view.layout;
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (const SequenceSlice& slice : batch.slices) {
    for (int token = 0; token < slice.past_tokens + slice.num_tokens; ++token) {
      const std::int32_t page = slice.page_table[token / kPageTokens];
      const int slot = token % kPageTokens;
      for (int head = 0; head < layout.num_kv_heads; ++head) {
        for (int dim = 0; dim < layout.head_dim; ++dim) {
          const std::int64_t k = layout.k_offset(page, head, slot, dim);
          const std::int64_t v = layout.v_offset(page, head, slot, dim);
          if (layout.elem_bytes == 1) {
            static_cast<std::uint8_t*>(cache.view.k)[k] = e4m3_from_float(normal(random) * 20.0f);
            static_cast<std::uint8_t*>(cache.view.v)[v] = e4m3_from_float(normal(random) * 200.0f);
          } else {
            static_cast<std::uint16_t*>(cache.view.k)[k] = f16_from_float(normal(random));
            static_cast<std::uint16_t*>(cache.view.v)[v] = f16_from_float(normal(random) * 3.0f);
          }
        }
      }
    }
  }
}

float largest_value(const TestBatch& batch, const TestCache& cache) {
  float largest = 0.0f;
  for (const SequenceSlice& slice : batch.slices) {
    for (int token = 0; token < slice.past_tokens + slice.num_tokens; ++token) {
      for (int head = 0; head < cache.view.layout.num_kv_heads; ++head) {
        largest = std::max(
            largest, std::fabs(reference::cached_v(cache.view, slice.page_table, head, token, 0)));
      }
    }
  }
  return largest;
}

void check_attention(cpu::Workspace& workspace, const AttentionCase& c,
                     const std::vector<TestBatch::Part>& parts, Random& random) {
  SCOPED_TRACE(fmt::format("heads {}/{} d {} bytes {} per head {}", c.num_heads, c.num_kv_heads,
                           c.head_dim, c.elem_bytes, c.per_head_scales));
  TestBatch batch(parts, random);
  TestCache cache({c.num_kv_heads, c.head_dim, c.elem_bytes}, batch.num_pages, c.per_head_scales,
                  false, random);
  fill_cache(batch, cache, random);
  const std::int64_t cols = std::int64_t{c.num_heads} * c.head_dim;
  const auto q = testing::random_floats(random, batch.rows * cols, 2.0f);
  std::vector<float> expected(q.size()), got(q.size(), -7.0f);
  AttentionParams params{.q = q.data(),
                         .out = expected.data(),
                         .num_heads = c.num_heads,
                         .softmax_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                         .cache = cache.view,
                         .sequences = batch.slices.data(),
                         .num_sequences = static_cast<int>(batch.slices.size())};
  reference::attention(params);
  params.out = got.data();
  cpu::attention(workspace, params);
  // Scores reach some tens; FP32 rounding of a score changes a probability by score * 2^-22 or so.
  const float tolerance = 3e-5f * largest_value(batch, cache);
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance) << "row " << i / static_cast<std::size_t>(cols)
                                                << " column " << i % static_cast<std::size_t>(cols);
  }
}

TEST(CpuAttention, MixedBatchesOfEveryShapeAgreeWithTheReference) {
  cpu::Workspace workspace(2);
  const std::vector<TestBatch::Part> mixed = {{0, 70}, {130, 1}, {0, 1}, {63, 1},
                                              {64, 1}, {60, 30}, {0, 0}, {5, 3}};
  testing::for_each_target([&] {
    Random random(31);
    for (const int elem_bytes : {1, 2}) {
      for (const bool per_head : {false, true}) {
        check_attention(workspace, {3, 3, 64, elem_bytes, per_head}, mixed, random);
        check_attention(workspace, {9, 3, 64, elem_bytes, per_head}, mixed, random);
        check_attention(workspace, {4, 1, 128, elem_bytes, per_head}, mixed, random);
        check_attention(workspace, {14, 2, 24, elem_bytes, per_head}, mixed, random);
        check_attention(workspace, {9, 1, 8, elem_bytes, per_head}, mixed, random);
      }
    }
  });
}

TEST(CpuAttention, LargeHeadsAndGroups) {
  cpu::Workspace workspace(2);
  Random random(32);
  check_attention(workspace, {4, 2, 256, 1, true}, {{10, 60}, {200, 1}}, random);
  check_attention(workspace, {4, 2, 200, 2, true}, {{10, 60}, {200, 1}}, random);
  check_attention(workspace, {71, 1, 64, 1, false}, {{10, 5}, {200, 1}}, random);
  check_attention(workspace, {200, 1, 16, 1, false}, {{10, 5}, {200, 1}}, random);
}

TEST(CpuAttention, LongContextsAreSplitAndMerged) {
  Random random(33);
  for (const int threads : {1, 3}) {
    cpu::Workspace workspace(threads);
    check_attention(workspace, {9, 3, 64, 1, true}, {{1500, 1}, {4200, 1}, {255, 1}, {256, 1}},
                    random);
    check_attention(workspace, {4, 2, 64, 2, false}, {{1500, 2}, {700, 7}}, random);
    check_attention(workspace, {4, 4, 32, 1, false}, {{900, 200}}, random);
  }
}

/// The whole prompt at once, and in chunks: each row sees the same tokens in the same order of
/// pages, so even the roundings agree.
TEST(CpuAttention, ChunksGiveTheSameAsTheWhole) {
  cpu::Workspace workspace(2);
  Random random(34);
  const int tokens = 200, heads = 6, kv_heads = 2, head_dim = 64;
  TestBatch batch({{0, tokens}}, random);
  TestCache cache({kv_heads, head_dim, 1}, batch.num_pages, true, false, random);
  fill_cache(batch, cache, random);
  const auto q = testing::random_floats(random, tokens * heads * head_dim);
  std::vector<float> whole(q.size()), chunked(q.size());
  AttentionParams params{.q = q.data(),
                         .out = whole.data(),
                         .num_heads = heads,
                         .softmax_scale = 0.125f,
                         .cache = cache.view,
                         .sequences = batch.slices.data(),
                         .num_sequences = 1};
  cpu::attention(workspace, params);
  for (const int chunk : {50, 77}) {
    for (int first = 0; first < tokens; first += chunk) {
      const SequenceSlice slice{0, std::min(chunk, tokens - first), first, batch.tables[0].data()};
      const std::ptrdiff_t offset = std::ptrdiff_t{first} * heads * head_dim;
      params.q = q.data() + offset;
      params.out = chunked.data() + offset;
      params.sequences = &slice;
      cpu::attention(workspace, params);
    }
    for (std::size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(chunked[i], whole[i], 1e-4f) << i;
  }
}

TEST(CpuAttention, HugeScoresDoNotOverflow) {
  cpu::Workspace workspace(1);
  Random random(35);
  TestBatch batch({{0, 40}, {70, 1}}, random);
  TestCache cache({1, 64, 2}, batch.num_pages, false, false, random);
  fill_cache(batch, cache, random);
  const auto q = testing::random_floats(random, batch.rows * 64, 1e4f);
  std::vector<float> expected(q.size()), got(q.size());
  AttentionParams params{.q = q.data(),
                         .out = expected.data(),
                         .num_heads = 1,
                         .softmax_scale = 1.0f,
                         .cache = cache.view,
                         .sequences = batch.slices.data(),
                         .num_sequences = 2};
  reference::attention(params);
  params.out = got.data();
  cpu::attention(workspace, params);
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i]));
    ASSERT_NEAR(got[i], expected[i], 0.5f) << i;  // scores of 1e5 have steps of 2^-7
  }
}

TEST(CpuAttention, StoredNanReachesTheRowsThatSeeItAndNoOther) {
  cpu::Workspace workspace(2);
  Random random(36);
  for (const int elem_bytes : {1, 2}) {
    TestBatch batch({{0, 90}}, random);
    TestCache cache({1, 64, elem_bytes}, batch.num_pages, false, false, random);
    fill_cache(batch, cache, random);
    const std::int64_t offset = cache.view.layout.v_offset(batch.tables[0][0], 0, 40, 7);
    if (elem_bytes == 1) {
      static_cast<std::uint8_t*>(cache.view.v)[offset] = kE4m3Nan;
    } else {
      static_cast<std::uint16_t*>(cache.view.v)[offset] = 0x7C00;
    }
    const auto q = testing::random_floats(random, batch.rows * 64 * 3);
    std::vector<float> out(q.size());
    cpu::attention(workspace, {.q = q.data(),
                               .out = out.data(),
                               .num_heads = 3,
                               .softmax_scale = 0.125f,
                               .cache = cache.view,
                               .sequences = batch.slices.data(),
                               .num_sequences = 1});
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t row = i / (3 * 64), dim = i % 64;
      ASSERT_EQ(!std::isfinite(out[i]), row >= 40 && dim == 7) << "row " << row << " dim " << dim;
    }
  }
}

TEST(CpuAttention, StoredNanReachesADecodeStep) {
  cpu::Workspace workspace(2);
  testing::for_each_target([&] {
    Random random(37);
    for (const int elem_bytes : {1, 2}) {
      TestBatch batch({{700, 1}}, random);
      TestCache cache({1, 64, elem_bytes}, batch.num_pages, false, false, random);
      fill_cache(batch, cache, random);
      const auto q = testing::random_floats(random, 64 * 3);
      std::vector<float> out(q.size());
      const auto run = [&] {
        cpu::attention(workspace, {.q = q.data(),
                                   .out = out.data(),
                                   .num_heads = 3,
                                   .softmax_scale = 0.125f,
                                   .cache = cache.view,
                                   .sequences = batch.slices.data(),
                                   .num_sequences = 1});
      };
      const auto put_nan = [&](void* elements, std::int64_t offset) {
        if (elem_bytes == 1) {
          static_cast<std::uint8_t*>(elements)[offset] = kE4m3Nan;
        } else {
          static_cast<std::uint16_t*>(elements)[offset] = 0x7E00;
        }
      };
      put_nan(cache.view.v, cache.view.layout.v_offset(batch.tables[0][10], 0, 59, 7));
      run();
      for (std::size_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(std::isnan(out[i]), i % 64 == 7) << "dim " << i % 64;
      }
      put_nan(cache.view.k, cache.view.layout.k_offset(batch.tables[0][10], 0, 60, 7));
      run();
      for (const float value : out) ASSERT_TRUE(std::isnan(value));
    }
  });
}

}  // namespace
}  // namespace kv8
