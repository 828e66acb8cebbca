#include <gtest/gtest.h>

#include <set>

#include "cuda/attention/sm90/prefill/kernel_params.cuh"
#include "cuda/attention/sm90/prefill/select.h"

namespace kv8::sm90 {
namespace {

SelectInput problem(int head_dim, int heads, int batch, int length) {
  SelectInput input;
  input.score_type = ScoreType::kF16;
  input.head_dim = head_dim;
  input.num_heads = heads;
  input.num_kv_heads = heads;
  input.batch = batch;
  input.max_q_len = input.max_kv_len = length;
  input.num_sms = 132;
  return input;
}

TEST(PrefillSelect, TableDescribesTheCompiledKernels) {
  std::set<std::string> names;
  for (const SelectableKernel& kernel : selectable_kernels()) {
    EXPECT_EQ(kernel.entry().shape, kernel.shape) << kernel.name;
    EXPECT_NE(kernel.entry().function, nullptr) << kernel.name;
    EXPECT_LE(kernel.entry().smem_bytes, 227 * 1024) << kernel.name;
    EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name;
  }
}

TEST(PrefillSelect, ShortSequencesGetSmallTilesLongOnesLarge) {
  const auto shortest = select_kernel(problem(128, 16, 1, 512));
  ASSERT_TRUE(shortest.ok());
  EXPECT_EQ((*shortest)->shape.row_groups, 1);
  const auto longest = select_kernel(problem(128, 32, 1, 16384));
  ASSERT_TRUE(longest.ok());
  EXPECT_STREQ((*longest)->name, "fp8_d128_rows192_keys192");
  const auto narrow = select_kernel(problem(64, 32, 1, 16384));
  ASSERT_TRUE(narrow.ok());
  EXPECT_GE((*narrow)->shape.row_groups, 3);
}

TEST(PrefillSelect, ChoiceHasTheLeastEstimate) {
  for (int head_dim : {64, 128}) {
    for (int batch : {1, 3, 8}) {
      for (int length : {1, 64, 500, 1024, 5000, 131072}) {
        const SelectInput input = problem(head_dim, 24, batch, length);
        const auto chosen = select_kernel(input);
        ASSERT_TRUE(chosen.ok());
        for (const SelectableKernel& other : selectable_kernels()) {
          if (other.shape.head_dim != head_dim || other.shape.kv_type != KvType::kE4m3 ||
              other.shape.score_type != ScoreType::kF16) {
            continue;
          }
          EXPECT_LE(estimate_us(**chosen, input), estimate_us(other, input));
        }
      }
    }
  }
}

TEST(PrefillSelect, EstimateGrowsWithTheProblem) {
  for (const SelectableKernel& kernel : selectable_kernels()) {
    double last = 0;
    for (int length : {64, 512, 1024, 4096, 16384, 65536}) {
      const double us = estimate_us(kernel, problem(kernel.shape.head_dim, 32, 8, length));
      EXPECT_GT(us, last) << kernel.name << " " << length;
      last = us;
    }
  }
}

TEST(PrefillSelect, HeadsShareTilesWhereThatPays) {
  EXPECT_EQ(packable_heads(1), 1);
  EXPECT_EQ(packable_heads(4), 4);
  EXPECT_EQ(packable_heads(7), 7);
  EXPECT_EQ(packable_heads(16), 8);
  EXPECT_EQ(packable_heads(71), 1);
  SelectInput input = problem(128, 32, 1, 512);
  input.num_kv_heads = 8;
  const KernelShape shape{KvType::kE4m3, 128, ScoreType::kF16, 3, 1, 192, 1, 4, Loop::kSerial};
  EXPECT_EQ(packed_heads(shape, input), 1);  // one wave: shared tiles would only be longer
  input.batch = 32;
  EXPECT_EQ(packed_heads(shape, input), 4);  // many waves
  input = problem(128, 32, 1, 16);
  input.num_kv_heads = 8;
  input.max_kv_len = 4096;
  EXPECT_EQ(packed_heads(shape, input), 4);  // 16 tokens of one head would leave rows empty
  input.num_kv_heads = 32;
  EXPECT_EQ(packed_heads(shape, input), 1);
}

TEST(PrefillSelect, QueriesWithoutKeysAreNoProblem) {
  SelectInput input = problem(128, 8, 1, 100);
  input.max_kv_len = 0;
  ASSERT_TRUE(select_kernel(input).ok());
}

TEST(PrefillSelect, UnsupportedCombinationsListWhatExists) {
  for (int head_dim : {0, 32, 80, 96, 192, 256}) {
    const auto result = select_kernel(problem(head_dim, 8, 1, 512));
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().message.find(std::to_string(head_dim)), std::string::npos);
    EXPECT_NE(result.error().message.find("64 or 128"), std::string::npos);
  }
  SelectInput half = problem(128, 8, 1, 512);
  half.kv_type = KvType::kF16;
  EXPECT_FALSE(select_kernel(half).ok());
  half.score_type = ScoreType::kF32;
  EXPECT_TRUE(select_kernel(half).ok());
}

TEST(FastDivisor, AgreesWithDivision) {
  for (std::uint32_t d : {1u, 2u, 3u, 5u, 7u, 14u, 28u, 32u, 112u, 255u, 256u, 257u, 65535u, 65537u,
                          1000003u, 0x3fffffffu, 0x7fffffffu}) {
    const FastDivisor divisor = FastDivisor::of(d);
    const auto check = [&](std::int64_t n) {
      if (n < 0 || n > INT32_MAX) return;
      ASSERT_EQ(divisor.divide(static_cast<int>(n)), static_cast<int>(n / d)) << n << " / " << d;
    };
    for (std::int64_t n = 0; n < 3000; ++n) check(n);
    for (std::int64_t multiple = d; multiple <= INT32_MAX;
         multiple += std::max<std::int64_t>(d, 99991) / d * d) {
      check(multiple - 1);
      check(multiple);
      check(multiple + 1);
    }
    check(INT32_MAX);
  }
}

}  // namespace
}  // namespace kv8::sm90
