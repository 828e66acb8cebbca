// Thousands of requests through a pool that is far too small, on the CPU and on the GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <random>

#include "exec/backends.h"
#include "ops/sampling.h"
#include "runtime/runtime_testing.h"
#include "support/gpu_tolerance.h"

namespace kv8::runtime {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr int kRequests = 2000;
#else
constexpr int kRequests = 10'000;
#endif

/// Computes every row of a batch by itself, so that a row's result does not depend on the batch,
/// not even in the order of its sums: answers can be compared exactly.
class RowByRowBackend : public Backend {
 public:
  RowByRowBackend(std::unique_ptr<Backend> inner, std::int32_t vocab_size)
      : inner_(std::move(inner)), vocab_(static_cast<std::size_t>(vocab_size)) {}

  Status run(const Batch& batch, TapSink*) override {
    logits_.clear();
    for (const SequenceSlice& slice : batch.sequences) {
      for (std::int32_t i = 0; i < slice.num_tokens; ++i) KV8_TRY(run_row(batch, slice, i));
    }
    return {};
  }
  Status read_logits(std::span<float> logits) override {
    std::ranges::copy(logits_, logits.begin());
    return {};
  }
  Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) override {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      tokens[i] = sample_row(std::span<const float>(logits_).subspan(i * vocab_, vocab_), rows[i]);
    }
    return {};
  }
  Status copy_page(std::int32_t from, std::int32_t to) override {
    return inner_->copy_page(from, to);
  }
  std::int64_t max_rows() const override { return inner_->max_rows(); }
  std::int32_t num_pages() const override { return inner_->num_pages(); }
  std::string_view name() const override { return inner_->name(); }

 private:
  Status run_row(const Batch& batch, const SequenceSlice& slice, std::int32_t i) {
    const auto row = static_cast<std::int32_t>(slice.first_row) + i;
    const SequenceSlice alone{0, 1, slice.past_tokens + i, slice.page_table};
    const std::int32_t first_row = 0;
    const bool wanted = std::ranges::binary_search(batch.logits_rows, row);
    const std::span<const std::int32_t> logits_rows(&first_row, wanted ? 1 : 0);
    const auto tokens = batch.token_ids.subspan(static_cast<std::size_t>(row), 1);
    KV8_TRY(inner_->run({tokens, std::span(&alone, 1), logits_rows}, nullptr));
    if (!wanted) return {};
    logits_.resize(logits_.size() + vocab_);
    return inner_->read_logits(std::span(logits_).last(vocab_));
  }

  std::unique_ptr<Backend> inner_;
  std::size_t vocab_;
  std::vector<float> logits_;
};

/// Where the requests go. The tiny model's heads are too small for the GPU.
struct Load {
  const char* backend;
  bool fp8;
  int requests;

  bool on_gpu() const { return std::string_view(backend) == "cuda"; }
  TinyModel model() const {
    return on_gpu() ? TinyModel(test::kRandomLlama3, fp8) : TinyModel("qwen3", fp8);
  }
};

// Without this, GoogleTest prints the bytes.
void PrintTo(const Load& load, std::ostream* out) {
  *out << load.requests << " on " << load.backend << (load.fp8 ? ", FP8" : ", FP16");
}

std::string load_name(const testing::TestParamInfo<Load>& info) {
  return std::string(info.param.backend) + (info.param.fp8 ? "_fp8" : "_fp16");
}

class StressTest : public testing::TestWithParam<Load> {
 protected:
  void SetUp() override {
    if (!exec::backend_architecture(GetParam().backend).ok()) GTEST_SKIP() << "skipped: no GPU";
  }
};

constexpr std::int32_t kVocab = 280;
constexpr std::int32_t kPoolPages = 4;

std::unique_ptr<Runner> open_runner(const TinyModel& model, const Load& load, bool row_by_row) {
  const std::int64_t values_per_token = load.on_gpu() ? 2 * 2 * 2 * 64 : 3 * 2 * 2 * 32;
  RunnerSetup setup;
  setup.fp8 = load.fp8;
  setup.builder.backend = load.backend;
  setup.builder.max_input_len = 160;
  setup.builder.max_kv_cache_capacity = 256;
  setup.builder.max_batch_size = 8;
  setup.builder.kv_cache_memory = kPoolPages * kPageTokens * values_per_token * (load.fp8 ? 1 : 2);
  if (row_by_row) {
    setup.wrap = [](std::unique_ptr<Backend> backend) {
      return std::make_unique<RowByRowBackend>(std::move(backend), kVocab);
    };
  }
  auto runner = make_runner(model.dir(), setup);
  EXPECT_EQ(runner->engine().config().vocab_size, kVocab);
  EXPECT_EQ(runner->pool().num_pages(), kPoolPages);
  return runner;
}

void expect_all_pages_free(Runner& runner) {
  runner.drop_prefixes();
  EXPECT_EQ(runner.pool().num_free(), runner.pool().num_pages());
}

class Requests {
 public:
  explicit Requests(unsigned seed) : random_(seed) {}

  int roll(int sides) { return static_cast<int>(random_() % static_cast<unsigned>(sides)); }

  Request next(bool greedy) {
    std::string text;
    // Some begin alike, over a page or two; most are short.
    if (roll(4) == 0) text.assign(static_cast<std::size_t>(40 + roll(80)), "xyz"[roll(3)]);
    for (int length = 1 + roll(25); length > 0; --length) text += static_cast<char>('a' + roll(26));
    const int tokens = roll(10) == 0 ? 120 + roll(80) : 1 + roll(12);
    Request request = greedy || roll(2) == 0 ? greedy_request(text, tokens)
                                             : random_request(text, tokens, random_());
    request.apply_chat_template = false;
    if (roll(3) == 0) request.sampling.logit_bias.clear();  // may end by itself
    for (int i = roll(4); i > 0; --i) {
      request.sampling.stop.push_back(std::string(1, static_cast<char>(' ' + roll(95))));
    }
    if (roll(100) == 0) request.messages[0].content += std::string(200, 'w');  // too long
    return request;
  }

 private:
  std::mt19937 random_;
};

/// Sends `requests` a few at a time, cancels some, and returns the responses in order.
std::vector<Response> send(Runner& runner, Requests& random, const std::vector<Request>& requests,
                           std::vector<bool>& cancelled) {
  std::vector<Response> responses(requests.size());
  std::vector<bool> answered(requests.size());
  cancelled.assign(requests.size(), false);
  runner.begin(0, {});
  std::size_t sent = 0;
  while (sent < requests.size() || runner.num_unfinished() > 0) {
    for (int i = random.roll(6); i > 0 && sent < requests.size(); --i) {
      runner.submit(requests[sent++]);
    }
    if (random.roll(8) == 0) {
      const int back = random.roll(20);
      const int idx = std::max(0, static_cast<int>(sent) - 1 - back);
      runner.cancel(idx);
      if (!answered[static_cast<std::size_t>(idx)]) cancelled[static_cast<std::size_t>(idx)] = true;
    }
    for (Response& response : runner.step()) {
      const auto idx = static_cast<std::size_t>(response.request_idx);
      EXPECT_FALSE(answered[idx]) << idx << " was answered twice";
      answered[idx] = true;
      responses[idx] = std::move(response);
    }
  }
  EXPECT_EQ(std::ranges::count(answered, true), std::ssize(requests));
  return responses;
}

/// Its answer ends where it was cancelled, or before it began.
bool is_cut_off(const Response& response) {
  return response.finish_reason == FinishReason::kCancelled ||
         response.finish_reason == FinishReason::kNotFinished;
}

using Stress = StressTest;

TEST_P(Stress, EveryRequestIsAnsweredAsIfItWereAlone) {
  const Load load = GetParam();
  const TinyModel model = load.model();
  const auto runner = open_runner(model, load, true);
  Requests random(1);
  std::vector<Request> requests;
  for (int i = 0; i < load.requests; ++i) requests.push_back(random.next(false));
  std::vector<bool> cancelled;
  const std::vector<Response> responses = send(*runner, random, requests, cancelled);
  EXPECT_GT(runner->profile().preemptions, load.requests / 1000);
  EXPECT_GT(runner->profile().reused_tokens, load.requests);
  expect_all_pages_free(*runner);

  const auto lonely = open_runner(model, load, true);
  std::int64_t num_refused = 0, num_cancelled = 0, num_stopped = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    const Response alone = lonely->run(file_of({requests[i]}), {})[0];
    lonely->drop_prefixes();
    const Response& response = responses[i];
    if (cancelled[i] && is_cut_off(response)) {
      ++num_cancelled;
      ASSERT_LE(response.output_ids.size(), alone.output_ids.size());
      ASSERT_TRUE(std::ranges::equal(
          response.output_ids, std::span(alone.output_ids).first(response.output_ids.size())));
      continue;
    }
    ASSERT_EQ(response.finish_reason, alone.finish_reason);
    ASSERT_EQ(response.output_ids, alone.output_ids);
    ASSERT_EQ(response.output_text, alone.output_text);
    num_refused += response.error.has_value();
    num_stopped += response.finish_reason == FinishReason::kStopWords;
  }
  EXPECT_GT(num_refused, 0);
  EXPECT_GT(num_cancelled, load.requests / 100);
  EXPECT_GT(num_stopped, load.requests / 1000);
}

INSTANTIATE_TEST_SUITE_P(RowByRow, Stress,
                         testing::Values(Load{"cpu", false, kRequests},
                                         Load{"cuda", false, kRequests / 10},
                                         Load{"cuda", true, kRequests / 10}),
                         load_name);

/// How far the log-probabilities of a token may be apart, and those of two tokens that change
/// places. On the CPU, a stored key or value that is rounded to its neighbour is off by 2^-3 (FP8),
/// which the softmax spreads over the sequence. On the GPU, a product's kernel depends on its rows,
/// and rounded sums differ where they lie beside a tie: no more than the GPU may differ from the
/// CPU.
double logprob_tolerance(const Load& load) {
  return load.on_gpu() ? test::tie_tolerance(DType::kF16, load.fp8) : 0.1;
}

/// Where two answers part, the model must have been undecided.
using StressBatches = StressTest;

TEST_P(StressBatches, AnswersDifferFromThoseAloneInTiesOnly) {
  const Load load = GetParam();
  const TinyModel model = load.model();
  const auto runner = open_runner(model, load, false);
  Requests random(2);
  std::vector<Request> requests;
  for (int i = 0; i < load.requests; ++i) {
    requests.push_back(random.next(true));
    requests.back().sampling.num_logprobs = 4;
  }
  std::vector<bool> cancelled;
  const std::vector<Response> responses = send(*runner, random, requests, cancelled);
  EXPECT_GT(runner->profile().preemptions, 0);
  EXPECT_GT(runner->profile().reused_tokens, 0);
  expect_all_pages_free(*runner);

  const auto lonely = open_runner(model, load, false);
  const double tolerance = logprob_tolerance(load);
  std::int64_t parted = 0, compared = 0, all = 0;
  double largest = 0, largest_gap = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    const Response alone = lonely->run(file_of({requests[i]}), {})[0];
    lonely->drop_prefixes();
    const Response& response = responses[i];
    const Comparison common = compare_answers(response, alone);
    EXPECT_LT(common.largest_difference, tolerance);
    EXPECT_LT(common.gap, tolerance);
    if (!common.parted && !(cancelled[i] && is_cut_off(response))) {
      EXPECT_EQ(response.output_ids, alone.output_ids);
      EXPECT_EQ(response.output_text, alone.output_text);
      EXPECT_EQ(response.finish_reason, alone.finish_reason);
    }
    parted += common.parted;
    compared += common.tokens;
    all += std::ssize(response.output_ids);
    largest = std::max(largest, common.largest_difference);
    largest_gap = std::max(largest_gap, common.gap);
  }
  RecordProperty("parted_answers", std::to_string(parted));
  RecordProperty("compared_tokens", std::to_string(compared));
  RecordProperty("all_tokens", std::to_string(all));
  RecordProperty("largest_difference", std::to_string(largest));
  RecordProperty("largest_gap", std::to_string(largest_gap));
  RecordProperty("preemptions", std::to_string(runner->profile().preemptions));
  EXPECT_GT(compared, all / 2) << "too many ties for a comparison";
}

INSTANTIATE_TEST_SUITE_P(KvCache, StressBatches,
                         testing::Values(Load{"cpu", false, kRequests / 5},
                                         Load{"cpu", true, kRequests / 5},
                                         Load{"cuda", false, kRequests},
                                         Load{"cuda", true, kRequests}),
                         load_name);

}  // namespace
}  // namespace kv8::runtime
