// Batches of very different sizes one after the other: working memory that launches share must not
// depend on what ran before.
#include <gtest/gtest.h>

#include <random>

#include "exec/backends.h"
#include "runtime/runtime_testing.h"
#include "support/gpu_tolerance.h"

namespace kv8::runtime {
namespace {

/// Eight KV heads, so that decode attention has from 8 to 800 tasks.
constexpr test::RandomModel kEightKvHeads{
    .name = "eight_kv_heads", .model_type = "llama", .heads = 16, .kv_heads = 8};
constexpr std::int32_t kMostSequences = 100, kAnswerTokens = 24, kLongest = 450;

class BatchSizes : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!exec::backend_architecture("cuda").ok()) GTEST_SKIP() << "skipped: no GPU";
  }

  static std::unique_ptr<Runner> open(const TinyModel& model, std::int32_t sequences) {
    RunnerSetup setup;
    setup.fp8 = GetParam();
    setup.builder.backend = "cuda";
    setup.builder.max_input_len = kLongest + 1;
    setup.builder.max_kv_cache_capacity = 512;
    setup.builder.max_batch_size = sequences;
    setup.max_rows = 4096;  // prompts of a batch in a step or two, so that all decode together
    return make_runner(model.dir(), setup);
  }

  /// A few with long prompts, whose tasks take many blocks each, or many of mixed lengths.
  std::vector<Request> requests(std::int32_t count) {
    const unsigned shortest = count < 4 ? kLongest - 50 : 1;
    const unsigned longest = count < 4 ? kLongest : 150;
    std::vector<Request> requests;
    for (std::int32_t i = 0; i < count; ++i) {
      std::string text;
      for (auto length = shortest + random_() % (longest - shortest); length > 0; --length) {
        text += static_cast<char>('a' + random_() % 26);
      }
      requests.push_back(greedy_request(text, kAnswerTokens));
      requests.back().apply_chat_template = false;
      requests.back().sampling.num_logprobs = 4;
    }
    return requests;
  }

  std::mt19937 random_{31};
};

TEST_P(BatchSizes, AnswersAreThoseOfEachSequenceAlone) {
  const TinyModel model(kEightKvHeads, GetParam());
  const auto together = open(model, kMostSequences), lonely = open(model, 1);
  const double tolerance = test::tie_tolerance(DType::kF16, GetParam());
  std::int64_t compared = 0, all = 0;
  for (const std::int32_t count : {1, 16, 3, 100, 1, 40, 2, 100, 1}) {
    SCOPED_TRACE(std::to_string(count) + " at once");
    const std::vector<Request> requests = this->requests(count);
    const std::vector<Response> responses = together->run(file_of(requests, count), {});
    expect_answers(responses);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(i);
      const Response alone = lonely->run(file_of({requests[i]}), {})[0];
      const Comparison common = compare_answers(responses[i], alone);
      EXPECT_LT(common.largest_difference, tolerance);
      EXPECT_LT(common.gap, tolerance);
      compared += common.tokens;
      all += kAnswerTokens;
    }
  }
  RecordProperty("compared_tokens", std::to_string(compared));
  EXPECT_GT(compared, all / 2) << "too many ties for a comparison";
}

INSTANTIATE_TEST_SUITE_P(KvCache, BatchSizes, testing::Bool(),
                         [](const auto& info) { return info.param ? "fp8" : "fp16"; });

}  // namespace
}  // namespace kv8::runtime
