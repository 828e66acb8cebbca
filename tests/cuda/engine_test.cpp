// The CUDA backend against the CPU's on small models: ragged and mixed batches, chunks, shuffled
// pages, page copies, graphs, taps, sampling.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <ostream>
#include <random>
#include <set>

#include "cpu/cpu_backend.h"
#include "cuda/engine/cuda_backend.h"
#include "cuda/engine_plan.h"
#include "cuda/gpu.h"
#include "support/gpu_tolerance.h"

namespace kv8::cuda_testing {
namespace {

constexpr std::int32_t kPages = 40;
constexpr std::int64_t kMaxRows = 320;
const BackendOptions kOptions = {.num_threads = 2, .num_pages = kPages, .max_rows = kMaxRows};

std::unique_ptr<Backend> open_cuda(const RandomDecoder& model, BackendOptions options = kOptions) {
  auto backend = cuda_engine::make_cuda_backend(model.plan, model.embedding, options);
  EXPECT_TRUE(backend.ok()) << (backend.ok() ? "" : backend.error().message);
  return std::move(backend).value();
}
std::unique_ptr<Backend> open_cpu(const RandomDecoder& model) {
  return cpu::make_cpu_backend(model.plan, model.embedding, kOptions).value();
}

std::vector<float> run(Backend& backend, const Plan& plan, const Batch& batch,
                       TapSink* taps = nullptr) {
  const Status status = backend.run(batch, taps);
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  std::vector<float> logits(batch.logits_rows.size() * static_cast<std::size_t>(plan.vocab_size));
  const Status read = backend.read_logits(logits);
  EXPECT_TRUE(read.ok()) << (read.ok() ? "" : read.error().message);
  return logits;
}

double relative_error(std::span<const float> got, std::span<const float> expected) {
  EXPECT_EQ(got.size(), expected.size());
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (double{got[i]} - expected[i]) * (double{got[i]} - expected[i]);
    norm += double{expected[i]} * expected[i];
  }
  const double relative = std::sqrt(error / norm);
  return std::isfinite(relative) ? relative : 1e30;
}

/// Sequences over pages in random order.
class Sequences {
 public:
  Sequences(const Plan& plan, std::size_t count) : vocab_(plan.vocab_size), lengths_(count) {
    std::vector<std::int32_t> pages(kPages);
    for (std::int32_t i = 0; i < kPages; ++i) pages[static_cast<std::size_t>(i)] = i;
    std::ranges::shuffle(pages, random_);
    const std::size_t each = pages.size() / count;
    for (std::size_t s = 0; s < count; ++s) {
      tables_.emplace_back(pages.begin() + static_cast<std::ptrdiff_t>(s * each),
                           pages.begin() + static_cast<std::ptrdiff_t>((s + 1) * each));
    }
  }

  /// Appends `tokens[i]` random tokens to sequence `which[i]`; the batch lives until the next call.
  /// Logits of the last row of each, or of all rows.
  Batch next(const std::vector<std::size_t>& which, const std::vector<std::int32_t>& tokens,
             bool all_logits = false) {
    ids_.clear();
    slices_.clear();
    wanted_.clear();
    std::uniform_int_distribution<std::int32_t> any(0, vocab_ - 1);
    for (std::size_t i = 0; i < which.size(); ++i) {
      const std::size_t s = which[i];
      slices_.push_back(
          {static_cast<std::int64_t>(ids_.size()), tokens[i], lengths_[s], tables_[s].data()});
      for (std::int32_t t = 0; t < tokens[i]; ++t) {
        if (all_logits) wanted_.push_back(static_cast<std::int32_t>(ids_.size()));
        ids_.push_back(any(random_));
      }
      lengths_[s] += tokens[i];
      if (!all_logits) wanted_.push_back(static_cast<std::int32_t>(ids_.size()) - 1);
    }
    return {ids_, slices_, wanted_};
  }
  std::vector<std::int32_t>& table(std::size_t s) { return tables_[s]; }

 private:
  std::mt19937 random_{23};
  std::int32_t vocab_;
  std::vector<std::vector<std::int32_t>> tables_;
  std::vector<std::int32_t> lengths_;
  std::vector<std::int32_t> ids_, wanted_;
  std::vector<SequenceSlice> slices_;
};

struct Case {
  DecoderShape shape;
  CacheKind cache;
};
std::ostream& operator<<(std::ostream& out, const Case& value) {
  return out << value.shape.name << " " << static_cast<int>(value.cache);
}

double tolerance(const Case& c) {
  return test::logits_tolerance(c.shape.dtype, c.cache != CacheKind::kF16);
}

class CudaEngine : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    KV8_NEEDS_GPU();
    model_ = make_decoder(GetParam().shape, GetParam().cache);
  }
  RandomDecoder model_;
};

TEST_P(CudaEngine, MixedBatchesAgreeWithTheCpu) {
  const auto cuda = open_cuda(model_);
  const auto cpu = open_cpu(model_);
  Sequences sequences(model_.plan, 5);
  const auto compare = [&](const Batch& batch, const char* what) {
    const auto expected = run(*cpu, model_.plan, batch);
    const double error = relative_error(run(*cuda, model_.plan, batch), expected);
    EXPECT_LT(error, tolerance(GetParam())) << what;
    RecordProperty(what, std::to_string(error));
  };
  compare(sequences.next({0, 1, 2}, {70, 1, 130}, true), "prompts");
  compare(sequences.next({0, 1, 2}, {1, 1, 1}), "decode of three");
  compare(sequences.next({3, 0, 4, 1}, {40, 1, 5, 1}), "prompts between decode steps");
  compare(sequences.next({2, 0}, {1, 33}), "a chunk after a decode step");
  for (int step = 0; step < 4; ++step) {
    compare(sequences.next({4, 3, 2, 1, 0}, {1, 1, 1, 1, 1}), "decode of five");
  }
  compare(sequences.next({1}, {1}), "decode of one");
}

TEST_P(CudaEngine, ChunksAgreeWithTheWholePrompt) {
  const auto whole = open_cuda(model_), chunked = open_cuda(model_);
  Sequences a(model_.plan, 1), b(model_.plan, 1);
  const Batch prompt = a.next({0}, {150});
  const std::vector<std::int32_t> ids(prompt.token_ids.begin(), prompt.token_ids.end());
  const auto expected = run(*whole, model_.plan, prompt);
  std::vector<float> got;
  std::int32_t done = 0;
  for (const std::int32_t chunk : {64, 1, 50, 35}) {
    const SequenceSlice slice{0, chunk, done, b.table(0).data()};
    const std::vector<std::int32_t> last = {chunk - 1};
    got = run(
        *chunked, model_.plan,
        {std::span(ids).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(chunk)),
         std::span(&slice, 1), last});
    done += chunk;
  }
  EXPECT_LT(relative_error(got, expected), tolerance(GetParam()));
}

TEST_P(CudaEngine, GraphsReplayWhatPlainStepsCompute) {
  BackendOptions plain_options = kOptions;
  plain_options.use_graphs = false;
  const auto graphs = open_cuda(model_), plain = open_cuda(model_, plain_options);
  Sequences sequences(model_.plan, 16);
  std::vector<std::size_t> all(16);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  const Batch prompts = sequences.next(all, std::vector<std::int32_t>(16, 9));
  EXPECT_EQ(run(*graphs, model_.plan, prompts), run(*plain, model_.plan, prompts));
  for (const std::size_t count : {1u, 2u, 3u, 8u, 16u, 5u, 13u, 1u, 3u, 16u}) {
    const std::vector<std::size_t> some(all.begin(),
                                        all.begin() + static_cast<std::ptrdiff_t>(count));
    for (int step = 0; step < 4; ++step) {  // first plain, then captured, then replayed
      const Batch batch = sequences.next(some, std::vector<std::int32_t>(count, 1));
      const auto expected = run(*plain, model_.plan, batch);
      const auto got = run(*graphs, model_.plan, batch);
      // Padding may take another kernel, which sums in another order.
      EXPECT_LT(relative_error(got, expected), tolerance(GetParam())) << count;
      if (count == 1 || count == 2 || count == 8 || count == 16) {
        EXPECT_EQ(got, expected) << count;
      }
    }
  }
}

TEST_P(CudaEngine, CopiedPagesCarryASequenceOn) {
  const auto cuda = open_cuda(model_);
  Sequences sequences(model_.plan, 2);
  run(*cuda, model_.plan, sequences.next({0}, {80}));
  sequences.table(1)[0] = sequences.table(0)[0];
  ASSERT_TRUE(cuda->copy_page(sequences.table(0)[1], sequences.table(1)[1]).ok());
  const std::vector<std::int32_t> id = {5}, wanted = {0};
  const SequenceSlice original{0, 1, 80, sequences.table(0).data()},
      copy{0, 1, 80, sequences.table(1).data()};
  const auto expected = run(*cuda, model_.plan, {id, std::span(&original, 1), wanted});
  EXPECT_EQ(run(*cuda, model_.plan, {id, std::span(&copy, 1), wanted}), expected);
}

/// Everything that passes.
class Recorder final : public TapSink {
 public:
  bool wants_values() const override { return true; }
  void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
              const float* v) override {
    const auto q_count = static_cast<std::size_t>(rows) * q_cols;
    const auto kv_count = static_cast<std::size_t>(rows) * kv_cols;
    const std::string name = "layer " + std::to_string(layer);
    values[name + " q"].assign(q, q + q_count);
    values[name + " k"].assign(k, k + kv_count);
    values[name + " v"].assign(v, v + kv_count);
  }
  void on_value(std::string_view name, std::int64_t rows, std::int64_t cols,
                const float* data) override {
    values[std::string(name)].assign(data, data + rows * cols);
  }
  std::size_t q_cols = 0, kv_cols = 0;
  std::map<std::string, std::vector<float>> values;
};

TEST_P(CudaEngine, TapsSeeWhatTheCpusSee) {
  const auto cuda = open_cuda(model_);
  const auto cpu = open_cpu(model_);
  Sequences sequences(model_.plan, 3);
  Recorder from_cuda, from_cpu;
  for (Recorder* recorder : {&from_cuda, &from_cpu}) {
    recorder->q_cols = static_cast<std::size_t>(model_.plan.num_heads * model_.plan.head_dim);
    recorder->kv_cols = static_cast<std::size_t>(model_.plan.num_kv_heads * model_.plan.head_dim);
  }
  const Batch batch = sequences.next({0, 1, 2}, {30, 1, 70});
  const auto expected = run(*cpu, model_.plan, batch, &from_cpu);
  EXPECT_LT(relative_error(run(*cuda, model_.plan, batch, &from_cuda), expected),
            tolerance(GetParam()));
  ASSERT_EQ(from_cuda.values.size(), from_cpu.values.size());
  for (const auto& [name, values] : from_cpu.values) {
    ASSERT_TRUE(from_cuda.values.contains(name)) << name;
    EXPECT_LT(relative_error(from_cuda.values[name], values), 2 * tolerance(GetParam())) << name;
  }
}

TEST_P(CudaEngine, SamplesWhatTheDefinitionSays) {
  const auto cuda = open_cuda(model_);
  Sequences sequences(model_.plan, 4);
  const LogitBias bias[] = {{3, 50.0f}, {7, -100.0f}};
  for (int step = 0; step < 3; ++step) {
    const Batch batch = sequences.next({0, 1, 2, 3}, {1, 20, 1, 3});
    const std::vector<float> logits = run(*cuda, model_.plan, batch);
    std::vector<SampleRow> rows(4);
    rows[0].temperature = 0.0f;
    rows[0].num_logprobs = 4;
    rows[1] = {.temperature = 0.8f, .top_p = 0.9f, .seed = 5, .step = 11};
    rows[2] = {.temperature = 2.0f, .top_k = 20, .seed = 77, .step = 3, .num_logprobs = 7};
    rows[3] = {.temperature = 0.0f, .logit_bias = bias};
    std::vector<SampledToken> tokens(4);
    const Status status = cuda->sample(rows, tokens);
    ASSERT_TRUE(status.ok()) << status.error().message;
    const auto vocab = static_cast<std::size_t>(model_.plan.vocab_size);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const SampledToken expected =
          sample_row(std::span<const float>(logits).subspan(i * vocab, vocab), rows[i]);
      EXPECT_EQ(tokens[i].fault, LogitsFault::kNone);
      EXPECT_EQ(tokens[i].chosen.id, expected.chosen.id) << i;
      ASSERT_EQ(tokens[i].top.size(), expected.top.size()) << i;
      if (rows[i].num_logprobs > 0) {
        EXPECT_NEAR(tokens[i].chosen.logprob, expected.chosen.logprob, 1e-9);
      }
      for (std::size_t t = 0; t < expected.top.size(); ++t) {
        EXPECT_EQ(tokens[i].top[t].id, expected.top[t].id);
        EXPECT_NEAR(tokens[i].top[t].logprob, expected.top[t].logprob, 1e-9);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, CudaEngine,
    ::testing::Values(Case{kLlama3, CacheKind::kF16}, Case{kLlama3, CacheKind::kFp8PerHead},
                      Case{kLlama3, CacheKind::kFp8WithF16Queries}, Case{kQwen25, CacheKind::kF16},
                      Case{kQwen25, CacheKind::kFp8}, Case{kQwen3, CacheKind::kF16},
                      Case{kLlama3, CacheKind::kFp8HalfScores},
                      Case{kQwen3, CacheKind::kFp8HalfScores},
                      Case{kQwen3, CacheKind::kFp8PerHead}));

TEST(CudaEngineLimits, RefusesWhatItCannotRunInOneLine) {
  KV8_NEEDS_GPU();
  DecoderShape small_heads = kLlama3;
  small_heads.head_dim = 32;
  const RandomDecoder unfit = make_decoder(small_heads, CacheKind::kF16);
  const auto refused = cuda_engine::make_cuda_backend(unfit.plan, unfit.embedding, kOptions);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("head_dim 32"), std::string::npos);

  const RandomDecoder model = make_decoder(kLlama3, CacheKind::kF16);
  BackendOptions options = kOptions;
  options.num_pages = 3'000'000;
  options.max_sequence_tokens = 512;
  const auto large = cuda_engine::make_cuda_backend(model.plan, model.embedding, options);
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, ErrorCode::kCapacity);
  EXPECT_NE(large.error().message.find("would fit"), std::string::npos) << large.error().message;
  EXPECT_GT(cuda_engine::cuda_page_memory(model.plan, kOptions).value(), 1 << 30);

  options = kOptions;
  options.max_logits_rows = 2;
  const auto backend = open_cuda(model, options);
  Sequences sequences(model.plan, 3);
  const Status status = backend->run(sequences.next({0, 1, 2}, {1, 1, 1}), nullptr);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCapacity);
}

TEST(CudaEngineTuning, TunedProductsGiveTheSameAnswers) {
  KV8_NEEDS_GPU();
  RandomDecoder model = make_decoder(kQwen25, CacheKind::kF16);
  Sequences a(model.plan, 2), b(model.plan, 2);
  const auto expected = run(*open_cuda(model), model.plan, a.next({0, 1}, {100, 1}));
  auto tuning = cuda_engine::tune_products(model.plan, 128, {}).value();
  EXPECT_GE(tuning.products.size(), 4u);
  model.plan.tuned_library = tuning.library;
  model.plan.tuned = tuning.products;
  const auto tuned = open_cuda(model);
  EXPECT_NE(tuned->summary().find("by timing"), std::string::npos);
  EXPECT_LT(relative_error(run(*tuned, model.plan, b.next({0, 1}, {100, 1})), expected), 3e-3);
  model.plan.tuned_library = "of another machine";
  EXPECT_NE(open_cuda(model)->summary().find("of another machine"), std::string::npos);
}

}  // namespace
}  // namespace kv8::cuda_testing
