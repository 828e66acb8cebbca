// Every shipped prefill kernel against double precision over the dequantized inputs.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "cuda/attention/attention.h"
#include "cuda/attention/portable/prefill/launch.h"
#include "cuda/attention/sm90/prefill/launch.h"
#include "cuda/attention/sm90/prefill/select.h"
#include "cuda/gpu.h"
#include "cuda/testing/prefill_problem.h"

namespace kv8 {
namespace {

using cuda_testing::Pattern;
using cuda_testing::PrefillError;
using cuda_testing::PrefillProblem;
using cuda_testing::PrefillProblemSpec;

// E4M3 keeps 3 mantissa bits: a probability is rounded by at most 2^-4 of itself, with a uniform
// rounding error by 2^-4 / sqrt(3) = 3.6e-2 rms at the worst place of a binade and 2.6e-2 over one.
constexpr double kFp8Tolerance = 2.6e-2;
// FP16 probabilities and output: 2^-11 each at most, about 2.5e-4 rms together.
constexpr double kF16Tolerance = 5e-4;

using Launch = std::function<Status()>;

/// A shipped kernel of either family.
struct TestedKernel {
  std::string name;
  KernelFamily family;
  KvType kv_type;
  int head_dim;
  ScoreType score_type;
  bool e4m3_probabilities;
  bool f16_queries;
  std::function<Result<Launch>(const PrefillArgs&)> prepare;
};

template <class Prepared>
Result<Launch> launch_of(Result<Prepared> prepared) {
  if (!prepared.ok()) return prepared.error();
  return Launch([prepared = *prepared] { return prepared.launch(nullptr); });
}

const std::vector<TestedKernel>& tested_kernels() {
  static const std::vector<TestedKernel> kernels = [] {
    std::vector<TestedKernel> all;
    for (const sm90::SelectableKernel& k : sm90::selectable_kernels()) {
      const sm90::KernelShape& shape = k.shape;
      for (const bool packed : {false, true}) {  // one query head a tile, or all of a KV head
        all.push_back({std::string("sm90_") + k.name + (packed ? "_packed" : ""),
                       KernelFamily::kSm90, shape.kv_type, shape.head_dim, shape.score_type,
                       shape.kv_type == KvType::kE4m3, false,
                       [&k, packed](const PrefillArgs& args) {
                         const int heads =
                             packed ? sm90::packable_heads(args.num_heads / args.num_kv_heads) : 1;
                         return launch_of(sm90::prepare_prefill(args, k.entry(), heads));
                       }});
      }
    }
    for (const portable::PrefillKernel& k : portable::prefill_kernels()) {
      const KvType type = k.products == portable::Products::kF16 ? KvType::kF16 : KvType::kE4m3;
      for (const bool f16_queries : {false, true}) {
        if (f16_queries && k.products != portable::Products::kWidened) continue;
        all.push_back({std::string("portable_") + k.name + (f16_queries ? "_f16_queries" : ""),
                       KernelFamily::kPortable, type, k.head_dim, ScoreType::kF32,
                       k.products == portable::Products::kE4m3, f16_queries,
                       [&k](const PrefillArgs& args) {
                         return launch_of(portable::prepare_prefill(args, k));
                       }});
      }
    }
    return all;
  }();
  return kernels;
}

class PrefillKernel : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const cuda_testing::ForcedFamily family(kernel().family);
    if (!family.works()) GTEST_SKIP() << "skipped: no GPU for " << to_string(kernel().family);
  }
  const TestedKernel& kernel() const { return tested_kernels()[std::size_t(GetParam())]; }
  bool fp8() const { return kernel().kv_type == KvType::kE4m3; }
  double tolerance() const { return kernel().e4m3_probabilities ? kFp8Tolerance : kF16Tolerance; }

  PrefillProblemSpec spec(std::vector<int> q_lens, std::vector<int> kv_lens) const {
    PrefillProblemSpec spec;
    spec.q_lens = std::move(q_lens);
    spec.kv_lens = std::move(kv_lens);
    spec.num_heads = 4;
    spec.num_kv_heads = 2;
    spec.head_dim = kernel().head_dim;
    spec.kv_type = kernel().kv_type;
    spec.f16_queries = kernel().f16_queries;
    spec.qk_code_amax = kernel().score_type == ScoreType::kF16 ? 14.0f : 448.0f;
    return spec;
  }

  /// Runs the kernel twice: the error of the first run, and both must agree bit for bit.
  PrefillError run(const PrefillProblemSpec& spec, int rows = 2000) const {
    auto problem = PrefillProblem::create(spec);
    EXPECT_TRUE(problem.ok()) << problem.error().message;
    const auto launch = kernel().prepare(problem->args(kernel().score_type));
    EXPECT_TRUE(launch.ok()) << launch.error().message;
    std::vector<std::uint16_t> outputs[2];
    for (auto& output : outputs) {
      EXPECT_TRUE(problem->poison_output().ok());
      EXPECT_TRUE((*launch)().ok());
      auto words = problem->output();
      EXPECT_TRUE(words.ok()) << words.error().message;
      output = std::move(words).value();
    }
    EXPECT_EQ(outputs[0], outputs[1]) << "two runs on the same input differ";
    const auto error = problem->compare(rows);
    EXPECT_TRUE(error.ok()) << error.error().message;
    EXPECT_EQ(error->not_finite, 0);
    return *error;
  }
};

TEST_P(PrefillKernel, LengthsAroundEveryEdge) {
  std::vector<int> q, kv;
  for (int edge : {16, 64, 128, 192, 256, 384, 576}) {
    for (int offset : {-1, 0, 1}) {
      kv.push_back(edge + offset);
      q.push_back(edge + offset);  // a prompt
      kv.push_back(edge + offset);
      q.push_back(1 + (edge * 7 + offset) % (edge + offset));  // a chunk behind cached tokens
    }
  }
  EXPECT_LE(run(spec(q, kv), 8000).relative, tolerance());
}

TEST_P(PrefillKernel, TinyAndEmptySequences) {
  const PrefillError error = run(spec({1, 0, 3, 5, 7, 2}, {1, 9, 3, 700, 0, 64}));
  EXPECT_LE(error.relative, tolerance());
}

TEST_P(PrefillKernel, MoreQueriesThanKeys) {  // the first rows see nothing and give zeros
  EXPECT_LE(run(spec({200, 65}, {40, 64})).relative, tolerance());
}

TEST_P(PrefillKernel, GroupedHeads) {
  for (auto [heads, kv_heads] : {std::pair{1, 1}, {14, 2}, {28, 4}, {5, 5}}) {
    PrefillProblemSpec s = spec({257, 90}, {300, 500});
    s.num_heads = heads;
    s.num_kv_heads = kv_heads;
    EXPECT_LE(run(s).relative, tolerance()) << heads << "/" << kv_heads;
  }
}

TEST_P(PrefillKernel, ScalesPerHeadOffsetAndBf16) {
  PrefillProblemSpec s = spec({300, 64}, {300, 200});
  s.num_kv_heads = 4;
  s.scale_per_head = fp8();
  s.v_offset = true;
  s.out_type = OutType::kBf16;
  EXPECT_LE(run(s).relative, std::max(tolerance(), 4e-3));  // BF16 rounds by 2^-9
}

TEST_P(PrefillKernel, NastyValues) {
  for (int p = 1; p < cuda_testing::kNumPatterns; ++p) {
    PrefillProblemSpec s = spec({300, 129}, {700, 129});
    s.pattern = static_cast<Pattern>(p);
    EXPECT_LE(run(s).relative, tolerance()) << to_string(s.pattern);
  }
}

TEST_P(PrefillKernel, ManyTilesOfUnequalLength) {
  PrefillProblemSpec s = spec({2048, 1, 700, 1333}, {2048, 2048, 4000, 1400});
  s.num_heads = 16;
  EXPECT_LE(run(s, 4000).relative, tolerance());
}

TEST_P(PrefillKernel, ErrorDoesNotGrowWithLength) {
  for (Pattern pattern : {Pattern::kNormal, Pattern::kFlat}) {
    PrefillProblemSpec s = spec({64}, {1024});
    s.pattern = pattern;
    const double at_1k = run(s).relative;
    s.kv_lens = {131072};
    // The FP16 kernels leave the accumulation to wgmma, which truncates, and start near the
    // output's own rounding.
    EXPECT_LE(run(s, 64).relative, kernel().e4m3_probabilities ? 1.2 * at_1k : 1e-3)
        << to_string(pattern);
  }
}

INSTANTIATE_TEST_SUITE_P(Shipped, PrefillKernel,
                         testing::Range(0, static_cast<int>(tested_kernels().size())),
                         [](const testing::TestParamInfo<int>& info) {
                           return tested_kernels()[std::size_t(info.param)].name;
                         });

using Prefill = cuda_testing::FamilyTest;
KV8_ALL_FAMILIES(Prefill);

TEST_P(Prefill, SelectsAndRuns) {
  for (auto [type, f16_queries] :
       {std::pair{KvType::kE4m3, false}, {KvType::kE4m3, true}, {KvType::kF16, false}}) {
    PrefillProblemSpec spec;
    spec.q_lens = {512};
    spec.kv_lens = {512};
    spec.num_heads = 8;
    spec.kv_type = type;
    spec.f16_queries = f16_queries;
    auto problem = PrefillProblem::create(spec);
    ASSERT_TRUE(problem.ok()) << problem.error().message;
    const auto prepared = prepare_prefill(problem->args(ScoreType::kF32));
    ASSERT_TRUE(prepared.ok()) << prepared.error().message;
    ASSERT_TRUE(prepared->launch(nullptr).ok());
    EXPECT_LE(problem->compare(1000)->relative, kFp8Tolerance) << prepared->description();
  }
}

TEST(PrefillArguments, BadArgumentsAreErrors) {
  PrefillArgs args;
  EXPECT_FALSE(prepare_prefill(args).ok());
  args.batch = args.num_pages = args.max_pages = 1;
  args.num_heads = 6;
  args.num_kv_heads = 4;
  args.head_dim = 128;
  args.softmax_scale = 1.0f;
  const auto result = prepare_prefill(args);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("6 query heads"), std::string::npos);
  args.num_heads = 8;
  const auto no_scales = prepare_prefill(args);
  ASSERT_FALSE(no_scales.ok());
  EXPECT_NE(no_scales.error().message.find("scales go with FP8"), std::string::npos);
  args.kv_type = KvType::kF16;
  const auto narrow = prepare_prefill(args);
  ASSERT_FALSE(narrow.ok());
  EXPECT_NE(narrow.error().message.find("FP8 queries over an FP16 cache"), std::string::npos);
}

}  // namespace
}  // namespace kv8
