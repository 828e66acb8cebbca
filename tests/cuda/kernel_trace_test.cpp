#include "cuda/testing/kernel_trace.h"

#include <gtest/gtest.h>

namespace kv8::cuda_testing {
namespace {

TEST(KernelTrace, NamesLoseNamespacesAndArguments) {
  EXPECT_EQ(short_kernel_name("void kv8::(anonymous namespace)::decode<128, true>(Params)"),
            "decode");
  EXPECT_EQ(short_kernel_name("kv8::cuda::multiply_rows(kv8::GemvArgs)"), "multiply_rows");
  EXPECT_EQ(short_kernel_name("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT"),
            "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT");
  EXPECT_EQ(short_kernel_name(""), "");
}

TEST(KernelTrace, SharedTimeIsTheEarlierKernels) {
  // a runs 0 to 4 ms; b starts at 3 and ends at 6; c lies within b; d comes after a gap.
  constexpr std::uint64_t kMs = 1000000;
  const KernelTrace trace = summarize({{"d", 8 * kMs, 9 * kMs},
                                       {"b", 3 * kMs, 6 * kMs},
                                       {"a", 0, 4 * kMs},
                                       {"c", 4 * kMs, 5 * kMs},
                                       {"a", 9 * kMs, 10 * kMs}});
  ASSERT_EQ(trace.kernels.size(), 4u);
  EXPECT_DOUBLE_EQ(trace.busy_ms, 8.0);
  EXPECT_DOUBLE_EQ(trace.kernels[0].ms, 5.0);
  EXPECT_EQ(trace.kernels[0].count, 2);
  EXPECT_DOUBLE_EQ(trace.kernels[1].ms, 2.0);
  EXPECT_DOUBLE_EQ(trace.kernels[2].ms, 0.0);
  EXPECT_EQ(trace.kernels[2].count, 1);
  EXPECT_DOUBLE_EQ(trace.kernels[3].ms, 1.0);
}

}  // namespace
}  // namespace kv8::cuda_testing
