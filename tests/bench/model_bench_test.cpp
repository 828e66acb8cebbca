#include "bench/model_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "bench/geometry.h"
#include "bench/model_candidate.h"
#include "exec/backends.h"
#include "support/expect_error.h"

namespace kv8::bench {
namespace {

using testing::HasSubstr;

/// A geometry small enough for a test: one or two of its layers, a vocabulary of a few tokens.
io::ModelConfig small_config(const std::string& name, std::int32_t layers) {
  io::ModelConfig config = geometry_config(name, layers).value();
  config.vocab_size = 304;
  return config;
}

TEST(Geometry, HaveThePublishedNumbersOfParameters) {
  // What transformers counts for the models on Hugging Face.
  const std::map<std::string, std::int64_t> published = {
      {"smollm2-135m", 134515008},  {"qwen2.5-0.5b", 494032768},  {"qwen3-0.6b", 596049920},
      {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824}, {"qwen2.5-7b", 7615616512},
      {"llama-3.1-8b", 8030261248}, {"qwen3-8b", 8190735360}};
  EXPECT_EQ(geometry_names().size(), published.size());
  for (const std::string& name : geometry_names()) {
    EXPECT_EQ(num_parameters(geometry_config(name, 0).value()), published.at(name)) << name;
  }
}

TEST(Geometry, BecomePlansOfBothCachesInSharedMemory) {
  for (const std::string& name : geometry_names()) {
    SCOPED_TRACE(name);
    const io::ModelConfig config = small_config(name, 1);
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      const io::Checkpoint checkpoint = random_checkpoint(config, dtype).value();
      const auto fp16 = exec::Engine::from_checkpoint(checkpoint, false, {}).value();
      const auto fp8 = exec::Engine::from_checkpoint(checkpoint, true, {}).value();
      EXPECT_TRUE(validate(fp16->plan()).ok());
      EXPECT_TRUE(validate(fp8->plan()).ok());
      EXPECT_EQ(fp16->plan().kv_bytes_per_token(), 2 * fp8->plan().kv_bytes_per_token());
      EXPECT_EQ(fp8->plan().caches[0].q_scale.size(), 1u);
      const Plan& plan = fp16->plan();
      EXPECT_EQ(plan.num_heads, config.num_heads);
      EXPECT_EQ(plan.head_dim, config.head_dim);
      for (std::size_t i = 0; i < plan.weights.size(); ++i) {
        EXPECT_EQ(plan.weights[i].dtype, dtype);
        EXPECT_EQ(plan.weights[i].parts[0].bytes.data(),
                  fp8->plan().weights[i].parts[0].bytes.data())
            << plan.weights[i].name;
      }
    }
  }
}

TEST(Geometry, UnknownNamesAndTooManyLayersAreRefused) {
  test::expect_error(geometry_config("gpt-2", 0), {"qwen3-8b"});
  test::expect_error(geometry_config("smollm2-135m", 31), {"30"});
}

/// The largest value of K and V over what the cache's scale makes 448 of.
class UseOfRange : public TapSink {
 public:
  explicit UseOfRange(const Plan& plan) : plan_(plan) {}
  void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
              const float* v) override {
    const LayerCache& cache = plan_.caches[static_cast<std::size_t>(layer)];
    const std::int64_t count = rows * plan_.num_kv_heads * plan_.head_dim;
    const std::int64_t q_count = rows * plan_.num_heads * plan_.head_dim;
    for (std::int64_t i = 0; i < count; ++i) {
      k_ = std::max(k_, std::abs(k[i]) / (448.0f * cache.k_scale[0]));
      v_ = std::max(v_, std::abs(v[i]) / (448.0f * cache.v_scale[0]));
    }
    for (std::int64_t i = 0; i < q_count; ++i) {
      q_ = std::max(q_, std::abs(q[i]) / (448.0f * cache.q_scale[0]));
    }
  }
  float q_ = 0, k_ = 0, v_ = 0;

 private:
  const Plan& plan_;
};

TEST(Geometry, ScalesFitTheValuesThatTheWeightsGive) {
  for (const std::string name : {"smollm2-135m", "qwen3-0.6b", "qwen2.5-0.5b"}) {
    SCOPED_TRACE(name);
    const io::Checkpoint checkpoint = random_checkpoint(small_config(name, 2), DType::kF16).value();
    const auto plain = exec::Engine::from_checkpoint(checkpoint, false, {}).value();
    Candidate candidate =
        Candidate::open(checkpoint, true, *plain,
                        {.num_threads = 1, .pages = 1, .rows = 64, .sequences = 1, .context = 64})
            .value();
    UseOfRange use(candidate.plan());
    const Workload work = make_workload({Phase::kPrefill, 1, 64, 64}, 1, 1, 304);
    candidate.run(work.pieces.front(), &use).value();
    // Thousands of normal values reach 4 to 5 of the 6 deviations.
    for (const float largest : {use.q_, use.k_, use.v_}) {
      EXPECT_GT(largest, 0.5f);
      EXPECT_LT(largest, 1.0f);
    }
  }
}

TEST(Workload, DecodeStepsGrowToTheContext) {
  const ModelPoint point{Phase::kDecode, 3, 130};
  EXPECT_EQ(pages_of(point), 9);
  const Workload work = make_workload(point, 4, 12, 100);
  ASSERT_EQ(work.pieces.size(), 4u);
  std::set<std::int32_t> pages;
  for (std::size_t step = 0; step < 4; ++step) {
    ASSERT_EQ(work.pieces[step].size(), 1u);
    const Call& call = work.pieces[step][0];
    ASSERT_EQ(call.sequences.size(), 3u);
    EXPECT_EQ(call.logits_rows, (std::vector<std::int32_t>{0, 1, 2}));
    for (const SequenceSlice& slice : call.sequences) {
      EXPECT_EQ(slice.past_tokens, 126 + static_cast<int>(step));
      EXPECT_EQ(slice.num_tokens, 1);
      pages.insert(slice.page_table, slice.page_table + 3);
    }
  }
  EXPECT_EQ(pages.size(), 9u);
  EXPECT_LT(*pages.rbegin(), 12);
  EXPECT_EQ(make_workload({Phase::kDecode, 1, 2}, 64, 1, 100).pieces.size(), 2u);
}

TEST(Workload, PrefillGoesInChunksAndMixedStepsCarryOne) {
  const Workload prefill = make_workload({Phase::kPrefill, 1, 100, 40}, 9, 2, 100);
  ASSERT_EQ(prefill.pieces.size(), 1u);
  const TimedCalls& calls = prefill.pieces[0];
  ASSERT_EQ(calls.size(), 3u);
  EXPECT_EQ(calls[1].sequences[0].past_tokens, 40);
  EXPECT_EQ(calls[2].tokens.size(), 20u);
  EXPECT_TRUE(calls[1].logits_rows.empty());
  EXPECT_EQ(calls[2].logits_rows, std::vector<std::int32_t>{19});

  const ModelPoint point{Phase::kMixed, 2, 70, 65};
  EXPECT_EQ(pages_of(point), 2 * 2 + 2);
  EXPECT_EQ(rows_of(point), 67);
  const Workload mixed = make_workload(point, 1, 6, 100);
  const Call& call = mixed.pieces.at(0).at(0);
  ASSERT_EQ(call.sequences.size(), 3u);
  EXPECT_EQ(call.sequences[2].first_row, 2);
  EXPECT_EQ(call.sequences[2].num_tokens, 65);
  EXPECT_EQ(call.logits_rows, (std::vector<std::int32_t>{0, 1, 66}));
}

TEST(Work, CountsWeightsKeysAndProducts) {
  const io::Checkpoint checkpoint =
      random_checkpoint(small_config("smollm2-135m", 2), DType::kF16).value();
  const auto engine = exec::Engine::from_checkpoint(checkpoint, true, {}).value();
  const Plan& plan = engine->plan();
  const SequenceSlice slices[] = {{0, 3, 10, nullptr}, {3, 1, 99, nullptr}};
  const StepWork work = work_of(plan, slices, 2, 2.0);
  const double kv_bytes_per_token = 2.0 * 2 * 3 * 64;
  EXPECT_EQ(work.weight_bytes, static_cast<double>(weight_bytes(plan)));
  EXPECT_EQ(work.kv_bytes, (13 + 100) * kv_bytes_per_token);
  EXPECT_EQ(work.attention_flop, (11 + 12 + 13 + 100) * 4.0 * 64 * 9 * 2);
  const double a_row = 576.0 * (576 + 2 * 192) + 576.0 * 576 + 576.0 * 1536 * 3;
  EXPECT_EQ(work.linear_flop, 2 * (4 * 2 * a_row + 2 * 576.0 * 304));

  const Ceilings slow_memory{1e6, 1e15};
  const Roofline memory = roofline_of(work, slow_memory);
  EXPECT_TRUE(memory.memory_bound);
  EXPECT_DOUBLE_EQ(memory.ms, (work.weight_bytes + work.kv_bytes) / 1e3);
  const Roofline compute = roofline_of(work, {1e15, 1e6});
  EXPECT_FALSE(compute.memory_bound);
  EXPECT_DOUBLE_EQ(compute.ms, (work.linear_flop + work.attention_flop / 2) / 1e3);
  EXPECT_DOUBLE_EQ(compute.attention_ms, work.attention_flop / 2 / 1e3);
}

TEST(ModelBench, MeasuresEveryPointWithBothCaches) {
  ModelBenchOptions options;
  options.geometry = "smollm2-135m";
  options.layers = 1;
  options.num_threads = 1;
  options.decode_steps = 2;
  options.repeats = 1;
  options.split_kernels = true;
  options.points = {
      {Phase::kPrefill, 1, 70, 40}, {Phase::kDecode, 2, 65}, {Phase::kMixed, 1, 9, 5}};
  options.full_memory_contexts = {64, 130};
  options.kv_cache_memory = 64 * 768 * 10;  // 10 FP16 pages of one layer
  const ModelBenchResult result = bench_model(options, {}).value();
  ASSERT_EQ(result.rows.size(), 10u);
  EXPECT_EQ(result.weight_dtype, "fp16");
  EXPECT_GT(result.ceilings.read_bytes_per_s, 0);
  EXPECT_GT(result.ceilings.flop_per_s, 0);
  for (const ModelBenchRow& row : result.rows) {
    SCOPED_TRACE(phase_name(row.point.phase) + " " + row.kv_dtype);
    EXPECT_GT(row.ms.median, 0);
    EXPECT_GT(row.tokens_per_s, 0);
    EXPECT_GT(row.roofline.ms, 0);
    EXPECT_FALSE(row.split.kernels.empty());
    EXPECT_NE(row.full_memory, row.alternating);
    const bool fp8 = row.kv_dtype == "fp8";
    EXPECT_EQ(row.kv_bytes_per_token, fp8 ? 384 : 768);
  }
  const auto batch_of = [&](std::size_t row) { return result.rows[row].point.batch; };
  EXPECT_EQ(batch_of(6), 10);
  EXPECT_EQ(batch_of(7), 3);
  EXPECT_EQ(batch_of(8), 20);
  EXPECT_EQ(batch_of(9), 6);
  EXPECT_EQ(find_row(result, Phase::kMixed, "fp8"), &result.rows[5]);
  EXPECT_EQ(fp16_beside(result, result.rows[3]), &result.rows[2]);
  EXPECT_EQ(fp16_beside(result, result.rows[9]), &result.rows[7]);
  EXPECT_EQ(fp16_beside(result, result.rows[2]), nullptr);
  EXPECT_EQ(find_row(result, Phase::kMixed, "int8"), nullptr);
}

TEST(ModelBench, MeasuresOnTheGpu) {
  if (!exec::backend_architecture("cuda").ok()) GTEST_SKIP() << "skipped: no GPU";
  ModelBenchOptions options;
  options.geometry = "qwen3-0.6b";
  options.layers = 2;
  options.backend = "cuda";
  options.decode_steps = 3;
  options.repeats = 2;
  options.split_kernels = can_split_kernels("cuda").ok();
  options.points = {
      {Phase::kPrefill, 1, 300, 300}, {Phase::kDecode, 9, 200}, {Phase::kMixed, 2, 100, 70}};
  options.full_memory_contexts = {1000};
  options.kv_cache_memory = std::int64_t{64} << 20;
  const ModelBenchResult result = bench_model(options, {}).value();
  ASSERT_EQ(result.rows.size(), 8u);
  for (const ModelBenchRow& row : result.rows) {
    SCOPED_TRACE(phase_name(row.point.phase) + " " + row.kv_dtype);
    EXPECT_GT(row.ms.median, 0);
    EXPECT_GT(row.roofline_fraction, 0);
    EXPECT_EQ(row.split.kernels.empty(), !options.split_kernels);
    EXPECT_EQ(row.split.busy_ms > 0, options.split_kernels);
  }
  EXPECT_EQ(result.rows[7].point.batch, 2 * result.rows[6].point.batch);
}

TEST(ModelBench, CudaWithoutAGpuIsRefused) {
  if (exec::backend_architecture("cuda").ok()) GTEST_SKIP() << "skipped: there is a GPU";
  ModelBenchOptions options;
  options.geometry = "qwen3-8b";
  options.backend = "cuda";
  test::expect_error(bench_model(options, {}), {"cuda"});
}

TEST(ModelBench, RefusesWhatDoesNotFit) {
  ModelBenchOptions options;
  options.geometry = "smollm2-135m";
  options.layers = 1;
  options.num_threads = 1;
  options.full_memory_contexts = {640};
  options.kv_cache_memory = 64 * 768 * 9;
  test::expect_error(bench_model(options, {}), {"needs 10"});
  options.backend = "tpu";
  test::expect_error(bench_model(options, {}), {"tpu"});
}

}  // namespace
}  // namespace kv8::bench
