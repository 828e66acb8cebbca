#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

#include "cuda/attention/attention.h"
#include "cuda/attention/decode/grid.h"
#include "cuda/attention/sm90/decode/cluster_size.h"
#include "cuda/attention/sm90/decode/memory.h"
#include "cuda/gpu.h"
#include "cuda/testing/prefill_problem.h"

namespace kv8 {
namespace {

using cuda_testing::DeviceArray;
using cuda_testing::Pattern;
using cuda_testing::PrefillProblem;
using cuda_testing::PrefillProblemSpec;

/// A decode problem is a prefill problem whose queries are the last tokens.
struct DecodeProblem {
  PrefillProblem problem;
  DecodeArgs args;
  DeviceArray<std::uint8_t> workspace;

  static DecodeProblem create(const PrefillProblemSpec& spec) {
    PrefillProblem problem = std::move(PrefillProblem::create(spec)).value();
    DecodeArgs a = problem.decode_args();
    const std::size_t bytes = decode_workspace_bytes(a).value();
    DeviceArray<std::uint8_t> workspace(std::vector<std::uint8_t>(bytes, 0));
    a.workspace = workspace.get();
    return {std::move(problem), a, std::move(workspace)};
  }
  void run(int blocks = 256) {
    ASSERT_TRUE(problem.poison_output().ok());
    const Status status = launch_decode(args, nullptr, blocks);
    ASSERT_TRUE(status.ok()) << status.error().message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  /// Other lengths than the problem was made with, none above those.
  void set_lengths(const std::vector<int>& lengths) const {
    ASSERT_EQ(cudaMemcpy(const_cast<std::int32_t*>(args.kv_lens), lengths.data(),
                         lengths.size() * sizeof(int), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  /// FP16 probabilities and outputs: each rounds to 11 bits, BF16 outputs to 8. Probabilities'
  /// errors average out, an output's own does not.
  void check(const std::string& what) {
    const auto error = problem.compare(args.batch * args.q_len * args.num_heads).value();
    const double bound = args.out_type == OutType::kBf16 ? 4e-3 : 1e-3;
    EXPECT_EQ(error.not_finite, 0) << what;
    EXPECT_LT(error.relative, bound) << what;
    EXPECT_LT(error.worst_row, 4 * bound) << what;
  }
};

PrefillProblemSpec spec_of(std::vector<int> kv_lens, int heads, int kv_heads, int head_dim,
                           KvType type, int q_len = 1) {
  PrefillProblemSpec spec;
  spec.q_lens.assign(kv_lens.size(), q_len);
  spec.kv_lens = std::move(kv_lens);
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.kv_type = type;
  return spec;
}

constexpr KvType kTypes[] = {KvType::kE4m3, KvType::kF16};

using DecodeTest = cuda_testing::FamilyTest;
KV8_ALL_FAMILIES(DecodeTest);

TEST_P(DecodeTest, AgreesWithDoublePrecisionForEveryPatternAndRatio) {
  for (KvType type : kTypes) {
    for (int head_dim : {64, 128}) {
      for (int pattern = 0; pattern < cuda_testing::kNumPatterns; ++pattern) {
        for (int group : {1, 4, 7, 16}) {
          PrefillProblemSpec spec = spec_of({700, 65}, 2 * group, 2, head_dim, type);
          spec.pattern = static_cast<Pattern>(pattern);
          spec.out_type = group == 4 ? OutType::kBf16 : OutType::kF16;
          auto problem = DecodeProblem::create(spec);
          problem.run();
          problem.check(to_string(spec.pattern) + " d " + std::to_string(head_dim) + " group " +
                        std::to_string(group) + (type == KvType::kE4m3 ? " fp8" : " fp16"));
        }
      }
    }
  }
}

TEST_P(DecodeTest, EveryLengthUpToTwoPagesAndOne) {
  std::vector<int> lengths(130);
  std::iota(lengths.begin(), lengths.end(), 0);
  for (KvType type : kTypes) {
    for (int head_dim : {64, 128}) {
      auto problem = DecodeProblem::create(spec_of(lengths, 8, 2, head_dim, type));
      problem.run();
      problem.check("d " + std::to_string(head_dim));
    }
  }
}

TEST_P(DecodeTest, EverySplitCount) {
  for (KvType type : kTypes) {
    auto problem = DecodeProblem::create(spec_of({1500, 0, 1, 64, 65, 3000}, 8, 2, 128, type));
    for (int blocks = 1; blocks <= 132; ++blocks) {
      problem.run(blocks);
      problem.check(std::to_string(blocks) + " blocks");
    }
  }
}

TEST_P(DecodeTest, MixedLengthsScalesPerHeadAndOffset) {
  PrefillProblemSpec spec =
      spec_of({1, 20000, 63, 64, 65, 1000, 4097, 129}, 32, 8, 128, KvType::kE4m3);
  spec.scale_per_head = true;
  spec.v_offset = true;
  auto problem = DecodeProblem::create(spec);
  problem.run();
  problem.check("mixed");
}

/// Random trees of `q_len` tokens: each but the first hangs on an earlier one and sees it and what
/// it sees. Every `padding`-th token belongs to no tree (0: all do).
std::vector<std::uint32_t> random_trees(int batch, int q_len, int padding) {
  std::mt19937 random(static_cast<std::uint32_t>(q_len));
  std::vector<std::array<std::uint32_t, 4>> rows;
  for (int b = 0; b < batch; ++b) {
    const std::size_t first = rows.size();
    for (int i = 0; i < q_len; ++i) {
      std::array<std::uint32_t, 4> row{};
      const bool pads = padding > 0 && i % padding == padding - 1;
      if (!pads) {
        if (i > 0) row = rows[first + random() % static_cast<std::uint32_t>(i)];
        row[static_cast<std::size_t>(i) / 32] |= std::uint32_t{1} << i % 32;
      }
      rows.push_back(row);
    }
  }
  std::vector<std::uint32_t> words;
  for (const auto& row : rows) words.insert(words.end(), row.begin(), row.end());
  return words;
}

// The KV heads are split among rows of the grid, where they and the blocks allow it.
constexpr int kKvHeadCounts[] = {1, 2, 3, 4, 6, 8, 12, 16};

TEST_P(DecodeTest, EveryNumberOfKvHeads) {
  for (KvType type : kTypes) {
    for (int kv_heads : kKvHeadCounts) {
      const int head_dim = kv_heads % 3 == 0 ? 128 : 64;
      PrefillProblemSpec spec =
          spec_of({1, 5000, 63, 0, 65, 1000, 2049}, 4 * kv_heads, kv_heads, head_dim, type);
      spec.scale_per_head = type == KvType::kE4m3;
      spec.v_offset = true;
      auto problem = DecodeProblem::create(spec);
      for (int blocks : {256, 100, 67, 33, 16, 9, 3, 1}) {
        problem.run(blocks);
        problem.check(std::to_string(kv_heads) + " KV heads, " + std::to_string(blocks) +
                      " blocks");
      }
    }
  }
}

TEST_P(DecodeTest, EveryNumberOfKvHeadsWithPassesOfTrees) {
  for (KvType type : kTypes) {
    for (int kv_heads : kKvHeadCounts) {
      PrefillProblemSpec spec = spec_of({9, 700, 72, 3000}, 5 * kv_heads, kv_heads,
                                        kv_heads % 3 == 0 ? 64 : 128, type, 9);
      spec.scale_per_head = type == KvType::kE4m3;
      auto causal = DecodeProblem::create(spec);  // 45 rows a KV head: three passes
      spec.tree_mask = random_trees(4, 9, 4);
      auto tree = DecodeProblem::create(spec);
      for (int blocks : {256, 33, 5}) {
        const std::string what =
            std::to_string(kv_heads) + " KV heads, " + std::to_string(blocks) + " blocks";
        causal.run(blocks);
        causal.check(what);
        tree.run(blocks);
        tree.check("trees, " + what);
      }
    }
  }
}

TEST_P(DecodeTest, FewQueryTokensAreCausal) {
  for (KvType type : kTypes) {
    for (int q_len : {2, 3, 4, 9}) {
      for (int heads : {2, 8, 32}) {
        auto problem =
            DecodeProblem::create(spec_of({64, 65, 9, 700, 66, 128}, heads, 2, 64, type, q_len));
        problem.run();
        problem.check("q_len " + std::to_string(q_len) + " heads " + std::to_string(heads));
      }
    }
  }
}

TEST_P(DecodeTest, TreeTokensSeeTheirAncestors) {
  for (KvType type : kTypes) {
    for (int q_len : {1, 2, 5, 31, 60, 64, 128}) {
      for (int group : {1, 4, 7}) {
        const int head_dim = group == 4 ? 64 : 128;
        PrefillProblemSpec spec =
            spec_of({q_len, q_len + 1, 64 + q_len, 700, 130}, 2 * group, 2, head_dim, type, q_len);
        spec.tree_mask = random_trees(5, q_len, group == 7 ? 5 : 0);
        auto problem = DecodeProblem::create(spec);
        problem.run();
        problem.check("tree of " + std::to_string(q_len) + " group " + std::to_string(group));
      }
    }
  }
}

TEST_P(DecodeTest, TakesHalfQueriesOverAnFp8Cache) {
  for (int head_dim : {64, 128}) {
    for (int pattern = 0; pattern < cuda_testing::kNumPatterns; ++pattern) {
      PrefillProblemSpec spec = spec_of({700, 65, 1}, 8, 2, head_dim, KvType::kE4m3);
      spec.pattern = static_cast<Pattern>(pattern);
      spec.f16_queries = true;
      auto problem = DecodeProblem::create(spec);
      problem.run();
      problem.check(to_string(spec.pattern) + " d " + std::to_string(head_dim));
    }
  }
}

TEST_P(DecodeTest, ChainIsCausal) {
  for (int q_len : {3, 70}) {
    PrefillProblemSpec spec = spec_of({200, 71, 1000}, 8, 2, 128, KvType::kE4m3, q_len);
    auto causal = DecodeProblem::create(spec);
    for (int b = 0; b < 3; ++b) {
      for (int i = 0; i < q_len; ++i) {
        for (int word = 0; word < 4; ++word) {
          const int bits = std::clamp(i + 1 - 32 * word, 0, 32);
          spec.tree_mask.push_back(static_cast<std::uint32_t>((std::uint64_t{1} << bits) - 1));
        }
      }
    }
    auto chain = DecodeProblem::create(spec);
    causal.run();
    chain.run();
    EXPECT_EQ(causal.problem.output().value(), chain.problem.output().value());
  }
}

TEST_P(DecodeTest, LongFlatContextKeepsItsPrecision) {
  PrefillProblemSpec spec = spec_of({131072}, 4, 1, 128, KvType::kE4m3);
  spec.pattern = Pattern::kFlat;
  auto problem = DecodeProblem::create(spec);
  for (int blocks : {1, 132}) {
    problem.run(blocks);
    problem.check(std::to_string(blocks) + " blocks");
  }
}

TEST_P(DecodeTest, RunsAgreeBitForBit) {
  auto problem = DecodeProblem::create(spec_of({5000, 300, 64, 12345}, 32, 8, 128, KvType::kE4m3));
  problem.run();
  const auto first = problem.problem.output().value();
  for (int i = 0; i < 20; ++i) {
    problem.run();
    ASSERT_EQ(problem.problem.output().value(), first);
  }
}

TEST_P(DecodeTest, OneWorkspaceServesLaunchesOfEveryBatchAndHeadSize) {
  auto few = DecodeProblem::create(spec_of({9000, 3000}, 32, 8, 64, KvType::kE4m3));
  // 800 tasks: counters of the last would lie where a launch of few tasks had its parts, if
  // counters came first.
  auto many = DecodeProblem::create(spec_of(std::vector<int>(100, 500), 32, 8, 128, KvType::kE4m3));
  few.args.workspace = many.args.workspace;
  for (int round = 0; round < 2; ++round) {
    few.run();
    few.check("2 sequences, round " + std::to_string(round));
    many.run();
    many.check("100 sequences, round " + std::to_string(round));
  }
}

/// Replays a launch captured with the longest lengths with each of `lengths`.
void replay(const std::vector<std::vector<int>>& lengths) {
  auto problem = DecodeProblem::create(spec_of(lengths[0], 16, 4, 128, KvType::kE4m3));
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  problem.run();
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  ASSERT_TRUE(launch_decode(problem.args, stream).ok());
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (const std::vector<int>& now : lengths) {
    problem.set_lengths(now);
    ASSERT_TRUE(problem.problem.poison_output().ok());
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    problem.check("replay of length " + std::to_string(now[0]));
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

// With few blocks each has long runs, whose pages the blocks count.
TEST_P(DecodeTest, LongRunsLeaveTheirCountersAtZero) {
  for (KvType type : kTypes) {
    for (int head_dim : {64, 128}) {
      for (int group : {2, 16}) {
        auto problem =
            DecodeProblem::create(spec_of({5000, 0, 64, 9000, 777}, 2 * group, 2, head_dim, type));
        for (int blocks : {1, 2, 3, 4}) {
          problem.run(blocks);
          const std::string what = "d " + std::to_string(head_dim) + " group " +
                                   std::to_string(group) + " blocks " + std::to_string(blocks);
          problem.check(what);
          const auto workspace = problem.workspace.values();
          const std::ptrdiff_t counters = (1 + 5 * 2) * sizeof(std::uint32_t);
          EXPECT_TRUE(std::all_of(workspace.end() - counters, workspace.end(),
                                  [](std::uint8_t byte) { return byte == 0; }))
              << what;
        }
      }
    }
  }
}

TEST_P(DecodeTest, CapturedLaunchFollowsChangedLengths) {
  replay({{3000, 2000, 1000}, {1, 2000, 64}, {65, 0, 999}, {2999, 1999, 1}});
  replay({{3000}, {1}, {64}, {65}, {0}, {2999}});  // a batch of one may run in clusters
}

// A batch of one: on Hopper each task has a cluster of blocks, of 16, 8, 4 or 2 of them as there is
// room, or none.
constexpr int kBlockCounts[] = {256, 31, 15, 7, 3};

TEST_P(DecodeTest, BatchOfOneWithEveryLengthUpToTwoPagesAndOne) {
  for (KvType type : kTypes) {
    for (int head_dim : {64, 128}) {
      auto problem = DecodeProblem::create(spec_of({130}, 8, 2, head_dim, type));
      for (int length = 0; length <= 129; ++length) {
        problem.set_lengths({length});
        problem.run();
        problem.check("d " + std::to_string(head_dim) + " length " + std::to_string(length));
      }
    }
  }
}

TEST_P(DecodeTest, BatchOfOneOnBothSidesOfEachCut) {
  for (KvType type : kTypes) {
    for (int head_dim : {64, 128}) {
      auto problem = DecodeProblem::create(spec_of({64 * 16 * 9}, 8, 2, head_dim, type));
      for (int blocks : kBlockCounts) {
        for (int pages : {1, 2, 4, 8, 16, 24, 32, 64, 128, 144}) {
          for (int more : {-1, 0, 1}) {
            const int length = std::min(64 * pages + more, 64 * 16 * 9);
            problem.set_lengths({length});
            problem.run(blocks);
            problem.check("d " + std::to_string(head_dim) + " length " + std::to_string(length) +
                          " blocks " + std::to_string(blocks));
          }
        }
      }
    }
  }
}

TEST_P(DecodeTest, BatchOfOneOfEveryPatternAndRatio) {
  for (KvType type : kTypes) {
    for (int pattern = 0; pattern < cuda_testing::kNumPatterns; ++pattern) {
      for (int group : {1, 4, 7, 16}) {
        PrefillProblemSpec spec = spec_of({1111}, 3 * group, 3, group == 7 ? 64 : 128, type);
        spec.pattern = static_cast<Pattern>(pattern);
        spec.out_type = group == 4 ? OutType::kBf16 : OutType::kF16;
        spec.scale_per_head = type == KvType::kE4m3 && group != 1;
        spec.v_offset = group == 16;
        auto problem = DecodeProblem::create(spec);
        problem.run();
        problem.check(to_string(spec.pattern) + " group " + std::to_string(group));
      }
    }
  }
}

TEST_P(DecodeTest, BatchOfOneWithTrees) {
  for (KvType type : kTypes) {
    for (int q_len : {1, 2, 5, 60, 128}) {
      for (int length : {q_len, 64 + q_len, 700}) {
        const int group = q_len % 2 == 0 ? 4 : 7;
        PrefillProblemSpec spec =
            spec_of({length}, 2 * group, 2, group == 4 ? 64 : 128, type, q_len);
        auto causal = DecodeProblem::create(spec);
        causal.run();
        causal.check("q_len " + std::to_string(q_len));
        spec.tree_mask = random_trees(1, q_len, 5);
        auto tree = DecodeProblem::create(spec);
        tree.run();
        tree.check("tree of " + std::to_string(q_len) + " length " + std::to_string(length));
      }
    }
  }
}

TEST_P(DecodeTest, BatchOfOneAgreesBitForBit) {
  auto problem = DecodeProblem::create(spec_of({5000}, 32, 8, 128, KvType::kE4m3));
  for (int blocks : kBlockCounts) {
    problem.run(blocks);
    const auto first = problem.problem.output().value();
    for (int i = 0; i < 20; ++i) {
      problem.run(blocks);
      ASSERT_EQ(problem.problem.output().value(), first);
    }
  }
}

TEST(DecodeClusters, SizeFollowsTheDeviceAndTheTasks) {
  const sm90::ClusterLimits h100 = {{66, 30, 15, 7}, sm90::enough_blocks(3.35e12)};
  EXPECT_EQ(sm90::cluster_size(1, 8, 64, 132, h100), 8);
  EXPECT_EQ(sm90::cluster_size(1, 8, 100000, 132, h100), 8);  // 64 blocks read fast enough
  EXPECT_EQ(sm90::cluster_size(1, 4, 100000, 132, h100), 16);
  EXPECT_EQ(sm90::cluster_size(1, 16, 64, 132, h100), 4);
  EXPECT_EQ(sm90::cluster_size(1, 31, 64, 132, h100), 2);
  EXPECT_EQ(sm90::cluster_size(1, 67, 64, 132, h100), 1);
  EXPECT_EQ(sm90::cluster_size(1, 1, 1024, 132, h100), 16);
  EXPECT_EQ(sm90::cluster_size(1, 1, 1025, 132, h100), 1);  // 16 do not
  EXPECT_EQ(sm90::cluster_size(2, 8, 64, 132, h100), 1);
  EXPECT_EQ(sm90::cluster_size(1, 8, 64, 63, h100), 4);
  EXPECT_EQ(sm90::cluster_size(1, 8, 64, 132, {}), 1);
  const sm90::ClusterLimits faster = {{66, 30, 15, 7}, sm90::enough_blocks(4.8e12)};  // H200
  EXPECT_EQ(sm90::cluster_size(1, 8, 512, 132, faster), 8);
  EXPECT_EQ(sm90::cluster_size(1, 8, 513, 132, faster), 1);
}

TEST(DecodeGrid, HasTheMostRowsThatHeadsAndBlocksAllow) {
  const auto rows = [](int batch, int num_kv_heads, int blocks) {
    const dim3 grid = decode::grid_of(batch * num_kv_heads, num_kv_heads, blocks);
    EXPECT_LE(grid.x * grid.y, static_cast<unsigned>(blocks));
    return static_cast<int>(grid.y);
  };
  EXPECT_EQ(rows(2, 8, 132), 8);  // four blocks have no place
  EXPECT_EQ(rows(2, 16, 132), 8);
  EXPECT_EQ(rows(2, 4, 132), 4);
  EXPECT_EQ(rows(2, 12, 132), 6);
  EXPECT_EQ(rows(2, 10, 132), 5);
  EXPECT_EQ(rows(2, 7, 132), 1);   // six blocks would have none
  EXPECT_EQ(rows(33, 8, 132), 4);  // two whole tasks a block
  EXPECT_EQ(rows(2, 8, 127), 4);
  EXPECT_EQ(rows(2, 8, 31), 1);
  EXPECT_EQ(rows(2, 8, 1), 1);
}

TEST(DecodeL2Policy, LongLaunchesOnFastMemoryKeepTheirPagesFirstToGo) {
  EXPECT_EQ(sm90::ordinary_l2_from(3.35e12), std::uint64_t{384} << 20);  // H100
  EXPECT_EQ(sm90::ordinary_l2_from(4.8e12), UINT64_MAX);                 // H200
}

TEST(DecodeArguments, RefusesWhatItCannotDo) {
  alignas(16) char memory[16];
  DecodeArgs a;
  a.q = a.k_pool = a.v_pool = a.out = a.workspace = memory;
  a.page_table = a.kv_lens = reinterpret_cast<std::int32_t*>(memory);
  a.q_scale = a.k_scale = a.v_scale = reinterpret_cast<float*>(memory);
  a.batch = a.max_pages = a.num_heads = a.num_kv_heads = 1;
  a.head_dim = 96;
  a.softmax_scale = 1.0f;
  EXPECT_NE(launch_decode(a, nullptr).error().message.find("head_dim 96"), std::string::npos);
  a.head_dim = 128;
  a.num_heads = 3;
  a.num_kv_heads = 2;
  EXPECT_NE(launch_decode(a, nullptr).error().message.find("3 query heads"), std::string::npos);
  a.num_heads = 4;
  a.k_scale = nullptr;
  EXPECT_NE(launch_decode(a, nullptr).error().message.find("scales go with FP8"),
            std::string::npos);
  a.k_scale = a.v_scale;
  a.tree_mask = reinterpret_cast<std::uint32_t*>(memory);
  a.q_len = 129;
  EXPECT_NE(launch_decode(a, nullptr).error().message.find("tree of 129"), std::string::npos);
  a.q_len = 1;
  a.batch = 1 << 16;
  a.max_pages = 1 << 16;
  EXPECT_NE(launch_decode(a, nullptr).error().message.find("too much"), std::string::npos);
}

}  // namespace
}  // namespace kv8
