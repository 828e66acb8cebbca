// Small random models on the CPU and on the GPU: logits, greedy answers, and what FP8 KV costs.
#include "exec/backends.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <ostream>

#include "base/temp_dir.h"
#include "eval/compare_logits.h"
#include "eval/eval.h"
#include "exec/sequence.h"
#include "support/fp8_checkpoint.h"
#include "support/gpu_tolerance.h"
#include "support/random_model.h"

namespace kv8::eval {
namespace {

constexpr std::int32_t kTokens = 400, kPrompts = 20, kPromptTokens = 24, kAnswer = 64;

struct Caches {
  const char* name;
  bool fp8;
  DType q_dtype = DType::kF8E4M3;
};
constexpr Caches kF16Cache{"fp16", false};
constexpr Caches kF8Cache{"fp8", true};
constexpr Caches kF8CacheF16Queries{"fp8_q16", true, DType::kF16};

/// A model on a backend, with its pages.
class Side {
 public:
  Side(const std::filesystem::path& checkpoint, const std::string& backend, const Caches& caches) {
    exec::BuilderConfig config;
    config.backend = backend;
    config.q_dtype = caches.q_dtype;
    config.qk_exponent_shift = exec::kShiftForHalfScores;  // the same codes on both
    config.max_kv_cache_capacity = 512;
    engine_ = exec::Engine::from_checkpoint(checkpoint, caches.fp8, config).value();
    backend_ =
        engine_->open_backend({.num_threads = 2, .num_pages = kPages, .max_rows = 1100}).value();
    pool_ = std::make_unique<exec::KvPool>(kPages);
  }

  std::size_t vocab() const { return static_cast<std::size_t>(engine_->plan().vocab_size); }
  std::vector<exec::Sequence> sequences(std::size_t count) {
    std::vector<exec::Sequence> result;
    for (std::size_t i = 0; i < count; ++i) result.emplace_back(*pool_);
    return result;
  }
  std::vector<float> run(std::span<const exec::StepItem> items) {
    std::vector<float> logits;
    exec::run_step(*engine_, *backend_, items, logits).value();
    return logits;
  }
  /// Logits of every token: the first `prefill` at once, the others one by one.
  std::vector<float> logits_of(std::span<const std::int32_t> ids, std::size_t prefill) {
    std::vector<exec::Sequence> sequence = sequences(1);
    std::vector<float> all;
    for (std::size_t done = 0; done < ids.size();) {
      const std::size_t count = done == 0 ? prefill : 1;
      const exec::StepItem item{sequence.data(), ids.subspan(done, count),
                                exec::StepItem::Logits::kAll};
      const std::vector<float> rows = run(std::span(&item, 1));
      all.insert(all.end(), rows.begin(), rows.end());
      done += count;
    }
    return all;
  }

 private:
  static constexpr std::int32_t kPages = 64;
  std::unique_ptr<exec::Engine> engine_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<exec::KvPool> pool_;
};

std::vector<std::int32_t> text_ids(std::size_t begin, std::size_t count) {
  std::vector<std::int32_t> ids;
  for (const char c : held_out_text().substr(begin, count)) {
    ids.push_back(8 + static_cast<unsigned char>(c));  // the tiny tokenizer's
  }
  return ids;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

double mean_kl(const std::vector<float>& a, const std::vector<float>& b, std::size_t vocab) {
  ThreadPool threads(1);
  const std::vector<std::int32_t> next(a.size() / vocab, 0);
  return compare_logits(a, b, next, threads).value().kl / static_cast<double>(next.size());
}

class Backends : public ::testing::TestWithParam<test::RandomModel> {
 protected:
  void SetUp() override {
    if (!exec::backend_architecture("cuda").ok()) GTEST_SKIP() << "skipped: no GPU";
    test::make_random_checkpoint(GetParam(), dir_ / "plain");
    test::make_fp8_checkpoint(dir_ / "plain", checkpoint(), 8, 256);
  }
  /// With FP8 scales, and weights in FP16 whatever they were.
  std::filesystem::path checkpoint() const { return dir_ / "fp8"; }

  test::TempDir dir_;
};

TEST_P(Backends, AgreeOnTheModelAsItCame) {
  const std::vector<std::int32_t> ids = text_ids(0, kTokens);
  Side cpu(dir_ / "plain", "cpu", kF16Cache), cuda(dir_ / "plain", "cuda", kF16Cache);
  const double error = relative_error(cuda.logits_of(ids, kTokens), cpu.logits_of(ids, kTokens));
  EXPECT_LT(error, test::logits_tolerance(GetParam().dtype, false));
  RecordProperty("error", std::to_string(error));
}

/// In a model of few layers what differs between the backends is small beside what FP8 costs. Over
/// many it is not: docs/cuda-engine.md.
TEST_P(Backends, AgreeOnLogitsAndOnWhatFp8Costs) {
  const std::vector<std::int32_t> ids = text_ids(0, kTokens);
  for (const std::size_t prefill : {std::size_t{kTokens}, std::size_t{8}}) {
    std::vector<float> cpu_f16, cuda_f16;
    for (const Caches& caches : {kF16Cache, kF8Cache, kF8CacheF16Queries}) {
      SCOPED_TRACE(std::string(caches.name) + ", " + std::to_string(prefill) + " at once");
      Side cpu(checkpoint(), "cpu", caches), cuda(checkpoint(), "cuda", caches);
      const std::vector<float> expected = cpu.logits_of(ids, prefill);
      const std::vector<float> got = cuda.logits_of(ids, prefill);
      EXPECT_LT(relative_error(got, expected), test::logits_tolerance(DType::kF16, caches.fp8));
      const double between = mean_kl(expected, got, cpu.vocab());
      const std::string key = std::string(caches.name) + "_" + std::to_string(prefill);
      RecordProperty(key + "_error", std::to_string(relative_error(got, expected)));
      RecordProperty(key + "_kl", std::to_string(1e6 * between));
      if (!caches.fp8) {
        cpu_f16 = expected;
        cuda_f16 = got;
        continue;
      }
      const double cpu_loss = mean_kl(cpu_f16, expected, cpu.vocab());
      const double cuda_loss = mean_kl(cuda_f16, got, cpu.vocab());
      EXPECT_LT(between, cpu_loss / 5);
      EXPECT_NEAR(cuda_loss, cpu_loss, cpu_loss / 5);
      RecordProperty(key + "_cpu_loss", std::to_string(1e6 * cpu_loss));
      RecordProperty(key + "_cuda_loss", std::to_string(1e6 * cuda_loss));
    }
  }
}

/// One prompt, and how far its answer has come.
struct Conversation {
  std::vector<std::int32_t> prompt, answer;
  std::vector<double> gaps;  ///< between the best two logits
};

std::vector<Conversation> prompts() {
  std::vector<Conversation> conversations;
  for (std::size_t i = 0; i < kPrompts; ++i) {
    conversations.push_back({text_ids(500 + 100 * i, kPromptTokens + 3 * i), {}, {}});
  }
  return conversations;
}

/// Answers all prompts in one batch.
void answer(Side& side, std::vector<Conversation>& conversations) {
  std::vector<exec::Sequence> sequences = side.sequences(conversations.size());
  for (std::int32_t step = 0; step < kAnswer; ++step) {
    std::vector<exec::StepItem> items;
    for (std::size_t i = 0; i < conversations.size(); ++i) {
      Conversation& c = conversations[i];
      items.push_back({&sequences[i], step == 0 ? std::span(c.prompt) : std::span(c.answer).last(1),
                       exec::StepItem::Logits::kLast});
    }
    const std::vector<float> logits = side.run(items);
    for (std::size_t i = 0; i < conversations.size(); ++i) {
      std::vector<std::pair<float, std::int32_t>> ranked;
      for (std::size_t id = 0; id < side.vocab(); ++id) {
        ranked.push_back({logits[i * side.vocab() + id], static_cast<std::int32_t>(id)});
      }
      std::ranges::partial_sort(ranked, ranked.begin() + 2, std::greater<>());
      conversations[i].answer.push_back(ranked[0].second);
      conversations[i].gaps.push_back(ranked[0].first - ranked[1].first);
    }
  }
}

TEST_P(Backends, GiveTheSameGreedyAnswersButForTies) {
  for (const Caches& caches : {kF16Cache, kF8Cache, kF8CacheF16Queries}) {
    SCOPED_TRACE(caches.name);
    std::vector<Conversation> expected = prompts(), got = prompts();
    Side cpu(checkpoint(), "cpu", caches), cuda(checkpoint(), "cuda", caches);
    answer(cpu, expected);
    answer(cuda, got);
    const double tie = test::tie_tolerance(DType::kF16, caches.fp8);
    int same = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto [other, mine] = std::ranges::mismatch(expected[i].answer, got[i].answer);
      const auto step = static_cast<std::size_t>(other - expected[i].answer.begin());
      same += step == kAnswer;
      if (step == kAnswer) continue;
      EXPECT_LT(expected[i].gaps[step], tie) << "prompt " << i;
    }
    RecordProperty(std::string(caches.name) + "_same_answers", same);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Backends,
                         ::testing::Values(test::kRandomLlama3, test::kRandomQwen25,
                                           test::kRandomQwen3),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kv8::eval
