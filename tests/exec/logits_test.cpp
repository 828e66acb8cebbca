// Logits of small models against transformers in FP32, through the planner and a backend: whole
// prompts, chunks and single tokens, ragged batches, shuffled pages that start out as NaN.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <ostream>
#include <random>

#include "base/json.h"
#include "exec/exec_testing.h"
#include "exec/reference_backend.h"
#include "exec/sequence.h"
#include "io/safetensors.h"

namespace kv8::exec {
namespace {

constexpr double kTolerance = 2e-3;
constexpr int kPrompts = 3;
constexpr std::int32_t kPages = 24;
constexpr std::int64_t kMaxRows = 256;

struct GoldenPrompt {
  std::vector<std::int32_t> ids, rows;
  std::vector<float> logits;
};

std::vector<std::int32_t> ints(const TensorView& tensor) {
  const auto* values = tensor.data<std::int32_t>();
  return {values, values + tensor.num_elements()};
}

io::SafetensorsFile golden_file(const std::string& name) {
  return io::SafetensorsFile::open(test_data() / "golden" / (name + ".safetensors")).value();
}

std::vector<GoldenPrompt> golden_prompts(const std::string& model, const std::string& logits) {
  const io::SafetensorsFile file = golden_file("logits_" + model);
  std::vector<GoldenPrompt> prompts;
  for (int n = 0; n < kPrompts; ++n) {
    prompts.push_back({ints(file.tensor(fmt::format("input_ids_{}", n)).value()),
                       ints(file.tensor(fmt::format("rows_{}", n)).value()),
                       to_float(file.tensor(fmt::format("{}_{}", logits, n)).value()).value()});
  }
  return prompts;
}

double relative_error(const float* a, const float* b, std::size_t count) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < count; ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

/// Errors of the golden's rows; `logits` has a row for every token.
std::vector<double> row_errors(const std::vector<float>& logits, const GoldenPrompt& golden) {
  const std::size_t vocab = golden.logits.size() / golden.rows.size();
  std::vector<double> errors;
  for (std::size_t i = 0; i < golden.rows.size(); ++i) {
    const float* row = logits.data() + static_cast<std::size_t>(golden.rows[i]) * vocab;
    errors.push_back(relative_error(row, golden.logits.data() + i * vocab, vocab));
    if (!std::isfinite(errors.back())) errors.back() = 1e30;
  }
  return errors;
}

double worst(const std::vector<double>& errors) { return *std::ranges::max_element(errors); }

/// An engine with a backend and a pool whose free pages come in random order.
struct Fixture {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<KvPool> pool;
};

Fixture open_fixture(const std::filesystem::path& checkpoint, bool fp8, DType q_dtype,
                     const std::string& backend) {
  Fixture fixture;
  BuilderConfig config;
  config.q_dtype = q_dtype;
  fixture.engine = Engine::from_checkpoint(checkpoint, fp8, config).value();
  if (backend == "reference") {
    fixture.backend = std::make_unique<ReferenceBackend>(
        fixture.engine->plan(), fixture.engine->embedding(), kPages, kMaxRows);
  } else {
    fixture.backend =
        fixture.engine->open_backend({.num_threads = 2, .num_pages = kPages, .max_rows = kMaxRows})
            .value();
  }
  fixture.pool = std::make_unique<KvPool>(kPages);
  std::vector<std::int32_t> pages(kPages);
  for (std::int32_t& page : pages) page = fixture.pool->take().value();
  std::ranges::shuffle(pages, std::mt19937(7));
  for (const std::int32_t page : pages) fixture.pool->release(page);
  return fixture;
}

/// All prompts as one ragged batch; logits of every token of each.
std::vector<std::vector<float>> run_whole(Fixture& f, const std::vector<GoldenPrompt>& prompts) {
  std::vector<Sequence> sequences;
  for (std::size_t i = 0; i < prompts.size(); ++i) sequences.emplace_back(*f.pool);
  std::vector<StepItem> items;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    items.push_back({&sequences[i], prompts[i].ids, StepItem::Logits::kAll});
  }
  std::vector<float> all;
  EXPECT_TRUE(run_step(*f.engine, *f.backend, items, all).ok());
  std::vector<std::vector<float>> logits;
  const auto vocab = static_cast<std::size_t>(f.engine->plan().vocab_size);
  auto at = all.begin();
  for (const GoldenPrompt& prompt : prompts) {
    const auto end = at + static_cast<std::ptrdiff_t>(prompt.ids.size() * vocab);
    logits.emplace_back(at, end);
    at = end;
  }
  return logits;
}

/// The same prompts, each fed in its own mixture of chunks and single tokens, all in one batch
/// while they last.
std::vector<std::vector<float>> run_pieces(Fixture& f, const std::vector<GoldenPrompt>& prompts) {
  std::vector<Sequence> sequences;
  for (std::size_t i = 0; i < prompts.size(); ++i) sequences.emplace_back(*f.pool);
  std::vector<std::vector<float>> logits(prompts.size());
  std::vector<std::size_t> done(prompts.size(), 0);
  const std::vector<std::size_t> pieces = {1, 17, 1, 63, 3, 1, 1, 40};
  const auto vocab = static_cast<std::size_t>(f.engine->plan().vocab_size);
  for (std::size_t round = 0;; ++round) {
    std::vector<StepItem> items;
    std::vector<std::size_t> who;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const std::size_t left = prompts[i].ids.size() - done[i];
      if (left == 0) continue;
      const std::size_t take = std::min(left, pieces[(round + i) % pieces.size()]);
      const auto ids = std::span(prompts[i].ids).subspan(done[i], take);
      items.push_back({&sequences[i], ids, StepItem::Logits::kAll});
      who.push_back(i);
    }
    if (items.empty()) return logits;
    std::vector<float> rows;
    EXPECT_TRUE(run_step(*f.engine, *f.backend, items, rows).ok());
    auto at = rows.begin();
    for (std::size_t n = 0; n < items.size(); ++n) {
      const auto end = at + static_cast<std::ptrdiff_t>(items[n].tokens.size() * vocab);
      logits[who[n]].insert(logits[who[n]].end(), at, end);
      at = end;
      done[who[n]] += items[n].tokens.size();
    }
  }
}

struct Case {
  std::string model, backend;
};
// Without this, GoogleTest prints the bytes.
void PrintTo(const Case& value, std::ostream* out) {
  *out << value.model << " on " << value.backend;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const std::string& model : kTinyModels) {
    for (const char* backend : {"reference", "cpu"}) cases.push_back({model, backend});
  }
  return cases;
}

class Logits : public ::testing::TestWithParam<Case> {};

TEST_P(Logits, Fp16CacheAgreesWithTransformers) {
  Fixture f = open_fixture(tiny_model(GetParam().model), false, DType::kF8E4M3, GetParam().backend);
  const Json golden = read_json_file(test_data() / "golden" / "models.json").value();
  const double rounding = golden["models"][GetParam().model]["kv_rounding_error"].get<double>();
  const bool bf16 = f.engine->plan().model_dtype == DType::kBF16;
  const auto plain = golden_prompts(GetParam().model, "logits");
  const auto rounded = bf16 ? golden_prompts(GetParam().model, "kv_rounded") : plain;
  for (const auto& logits : {run_whole(f, plain), run_pieces(f, plain)}) {
    for (std::size_t n = 0; n < plain.size(); ++n) {
      EXPECT_LT(worst(row_errors(logits[n], rounded[n])), kTolerance) << "prompt " << n;
      EXPECT_LT(worst(row_errors(logits[n], plain[n])), bf16 ? 4 * rounding : kTolerance)
          << "prompt " << n;
    }
  }
  EXPECT_EQ(f.pool->num_free(), kPages);
}

struct Variant {
  std::string name;
  Scales scales;
  DType q_dtype;
};

TEST_P(Logits, Fp8CacheAgreesWithItsSimulationInPyTorch) {
  const Json golden = read_json_file(test_data() / "golden" / "models.json").value();
  const Json& noise = golden["models"][GetParam().model]["fp8_noise"];
  for (const Variant& variant : {Variant{"tensor", Scales::kPerTensor, DType::kF8E4M3},
                                 Variant{"tensor_q16", Scales::kPerTensor, DType::kF16},
                                 Variant{"head", Scales::kPerHead, DType::kF8E4M3}}) {
    SCOPED_TRACE(variant.name);
    const test::TempDir dir;
    ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint(GetParam().model, variant.scales, dir.path()));
    Fixture f = open_fixture(dir.path(), true, variant.q_dtype, GetParam().backend);
    ASSERT_EQ(f.engine->plan().caches[0].dtype, DType::kF8E4M3);
    std::vector<GoldenPrompt> prompts = {golden_prompts(GetParam().model, "logits")[2]};
    prompts[0].logits =
        to_float(golden_file("fp8_kv_" + GetParam().model).tensor(variant.name).value()).value();
    const double row_limit = std::max(kTolerance, 3 * noise[variant.name][0].get<double>());
    for (const auto& logits : {run_whole(f, prompts), run_pieces(f, prompts)}) {
      std::vector<double> errors = row_errors(logits[0], prompts[0]);
      EXPECT_LT(worst(errors), row_limit);
      std::ranges::sort(errors);
      EXPECT_LT(errors[errors.size() * 3 / 4], kTolerance);
    }
  }
}

TEST_P(Logits, QuantizedCheckpointRunsWithFp16CachesToo) {
  const test::TempDir dir;
  ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint(GetParam().model, Scales::kPerTensor, dir.path()));
  Fixture f = open_fixture(dir.path(), false, DType::kF8E4M3, GetParam().backend);
  const bool bf16 = f.engine->plan().model_dtype == DType::kBF16;
  const auto prompts = golden_prompts(GetParam().model, bf16 ? "kv_rounded" : "logits");
  const auto logits = run_whole(f, prompts);
  EXPECT_LT(worst(row_errors(logits[1], prompts[1])), kTolerance);
}

TEST_P(Logits, ReusedPagesAreAsGoodAsComputedOnes) {
  const test::TempDir dir;
  for (const bool fp8 : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(
        write_fp8_checkpoint(GetParam().model, Scales::kPerHead, dir / (fp8 ? "fp8" : "fp16")));
    Fixture f = open_fixture(dir / (fp8 ? "fp8" : "fp16"), fp8, DType::kF8E4M3, GetParam().backend);
    const std::vector<std::int32_t> ids = golden_prompts(GetParam().model, "logits")[2].ids;
    const auto page = std::span(ids).first(kPageTokens), rest = std::span(ids).subspan(kPageTokens);
    Sequence first(*f.pool), second(*f.pool);
    std::vector<float> logits, first_logits, second_logits;
    const auto wanted = StepItem::Logits::kLast;
    ASSERT_TRUE(run_prefill(*f.engine, *f.backend, first, page, 30, wanted, logits).ok());
    first.index(ids);
    ASSERT_EQ(second.reuse(ids), kPageTokens);
    ASSERT_TRUE(run_prefill(*f.engine, *f.backend, first, rest, 30, wanted, first_logits).ok());
    ASSERT_TRUE(run_prefill(*f.engine, *f.backend, second, rest, 30, wanted, second_logits).ok());
    EXPECT_EQ(first_logits, second_logits);
    EXPECT_EQ(first_logits.size(), static_cast<std::size_t>(f.engine->plan().vocab_size));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Logits, ::testing::ValuesIn(all_cases()), [](const auto& info) {
  return info.param.model + "_" + info.param.backend;
});

TEST(RunStep, RefusesWhatDoesNotFitAndChangesNothing) {
  BuilderConfig config;
  config.max_kv_cache_capacity = 100;
  const auto engine = Engine::from_checkpoint(tiny_model("qwen3"), false, config).value();
  ReferenceBackend backend(engine->plan(), engine->embedding(), 3, 256);
  KvPool pool(3);
  Sequence a(pool), b(pool), c(pool);
  const std::vector<std::int32_t> tokens(101, 5);
  std::vector<float> logits;
  const auto whole = std::span(tokens);
  const Status capacity =
      run_prefill(*engine, backend, a, whole, 10, StepItem::Logits::kLast, logits);
  expect_error(capacity, {"101", "max_kv_cache_capacity 100"});
  EXPECT_EQ(capacity.error().code, ErrorCode::kCapacity);
  std::vector<StepItem> items = {{&a, whole.first(80)}, {&b, whole.first(80)}};
  expect_error(run_step(*engine, backend, items, logits), {"4 KV pages", "3 are free"});
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(a.length(), 0);
  items = {{&c, whole.first(0)}};
  EXPECT_THROW((void)run_step(*engine, backend, items, logits), ContractError);
}

}  // namespace
}  // namespace kv8::exec
