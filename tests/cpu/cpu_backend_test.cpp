#include "cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "cpu_test_util.h"
#include "ops/reference.h"
#include "ops/rope.h"

namespace kv8 {
namespace {

using testing::Random;
using testing::TestBatch;

constexpr int kLayers = 2, kHidden = 48, kInner = 40, kVocab = 50;
constexpr int kHeads = 6, kKvHeads = 2, kHeadDim = 16;

/// FP16 [kVocab, kHidden].
const TensorView& embedding() {
  static const TensorView table = [] {
    Random random(40);
    const Shape shape = {kVocab, kHidden};
    return convert(
               tensor_from_floats(testing::random_floats(random, kVocab * kHidden, 1.0f), shape),
               DType::kF16)
        .value();
  }();
  return table;
}

/// Slots: 0 hidden state, 1 normed, 2 qkv, 3 q, 4 attention, 5 gate and up, 6 inner, 7 selected,
/// 8 selected and normed, 9 logits.
Plan tiny_plan(DType cache_dtype, DType weight_dtype, bool bias_and_norms, Random& random) {
  Plan plan;
  plan.hidden_size = kHidden;
  plan.vocab_size = kVocab;
  plan.num_layers = kLayers;
  plan.num_heads = kHeads;
  plan.num_kv_heads = kKvHeads;
  plan.head_dim = kHeadDim;
  plan.model_dtype = weight_dtype;
  plan.softmax_scale = 0.25f;
  plan.rope_inv_freq =
      make_rope_table({.theta = 10000.0, .head_dim = kHeadDim, .max_position = 512})->inv_freq;
  plan.max_positions = 512;
  const int qkv = (kHeads + 2 * kKvHeads) * kHeadDim;
  plan.slot_cols = {kHidden,    kHidden, qkv,     kHeads * kHeadDim, kHeads * kHeadDim,
                    2 * kInner, kInner,  kHidden, kHidden,           kVocab};
  const auto add = [&](DType dtype, Shape shape, float deviation, float mean = 0.0f) {
    auto values = testing::random_floats(random, checked_num_elements(shape).value(), deviation);
    for (float& value : values) value += mean;
    const TensorView tensor = convert(tensor_from_floats(values, shape), dtype).value();
    PlanWeight weight{"w" + std::to_string(plan.weights.size()), dtype, shape, {}};
    if (shape.size() == 2 && shape[0] % 2 == 0) {  // in two parts, as the planner joins matrices
      TensorView half = tensor;
      half.shape[0] /= 2;
      half.bytes = tensor.bytes.first(tensor.bytes.size() / 2);
      weight.parts.push_back(half);
      half.bytes = tensor.bytes.last(tensor.bytes.size() / 2);
      weight.parts.push_back(half);
    } else {
      weight.parts.push_back(tensor);
    }
    plan.weights.push_back(std::move(weight));
    return static_cast<WeightIndex>(plan.weights.size() - 1);
  };
  for (std::int32_t layer = 0; layer < kLayers; ++layer) {
    LayerCache cache;
    cache.dtype = layer == 0 ? cache_dtype : DType::kF8E4M3;
    cache.k_scale = layer == 0 ? std::vector<float>{0.01f} : std::vector<float>{0.2f, 0.02f};
    cache.v_scale = layer == 0 ? std::vector<float>{0.03f} : std::vector<float>{0.01f, 0.1f};
    if (layer == 1) cache.q_scale = {0.015f};
    plan.caches.push_back(cache);
    plan.steps.push_back(RmsNormStep{0, 1, add(DType::kF32, {kHidden}, 0.2f, 1.0f), 1e-5f});
    plan.steps.push_back(LinearStep{1, 2, add(weight_dtype, {qkv, kHidden}, 0.15f),
                                    bias_and_norms ? add(weight_dtype, {qkv}, 0.5f) : kNone});
    plan.steps.push_back(RopeKvWriteStep{
        2, 3, layer, bias_and_norms ? add(weight_dtype, {kHeadDim}, 0.2f, 1.0f) : kNone,
        bias_and_norms ? add(weight_dtype, {kHeadDim}, 0.2f, 1.0f) : kNone, 1e-6f});
    plan.steps.push_back(AttentionStep{3, 4, layer});
    plan.steps.push_back(
        LinearStep{4, 0, add(weight_dtype, {kHidden, kHeads * kHeadDim}, 0.1f), kNone, 0});
    plan.steps.push_back(RmsNormStep{0, 1, add(weight_dtype, {kHidden}, 0.2f, 1.0f), 1e-5f});
    plan.steps.push_back(LinearStep{1, 5, add(weight_dtype, {2 * kInner, kHidden}, 0.15f)});
    plan.steps.push_back(SwiGluStep{5, 6});
    plan.steps.push_back(LinearStep{6, 0, add(weight_dtype, {kHidden, kInner}, 0.1f), kNone, 0});
  }
  plan.steps.push_back(SelectRowsStep{0, 7});
  plan.steps.push_back(RmsNormStep{7, 8, add(DType::kF32, {kHidden}, 0.2f, 1.0f), 1e-5f});
  plan.steps.push_back(LinearStep{8, 9, add(weight_dtype, {kVocab, kHidden}, 0.15f)});
  plan.logits_slot = 9;
  return plan;
}

/// Executes a plan step by step with ops/reference.h.
class ReferenceRunner {
 public:
  ReferenceRunner(const Plan& plan, int num_pages) : plan_(plan) {
    for (const PlanWeight& weight : plan.weights) {
      std::vector<std::byte>& bytes = weights_.emplace_back();
      for (const TensorView& part : weight.parts) {
        bytes.insert(bytes.end(), part.bytes.begin(), part.bytes.end());
      }
    }
    for (const LayerCache& cache : plan.caches) {
      const KvLayout layout = layout_of(cache);
      k_.emplace_back(
          static_cast<std::size_t>(layout.page_elements() * layout.elem_bytes * num_pages),
          std::uint8_t{0x7F});
      v_.push_back(k_.back());
    }
    slots_.resize(plan.slot_cols.size());
  }

  std::vector<float> run(const Batch& batch) {
    rows_.assign(slots_.size(), static_cast<std::int64_t>(batch.token_ids.size()));
    auto& input = slots_[0];
    input.clear();
    for (const std::int32_t id : batch.token_ids) {
      const auto* row = embedding().data<std::uint16_t>() + id * kHidden;
      for (int i = 0; i < kHidden; ++i) input.push_back(f16_to_float(row[i]));
    }
    for (const Step& step : plan_.steps) {
      std::visit([&](const auto& s) { run_step(batch, s); }, step);
    }
    return slots_[static_cast<std::size_t>(plan_.logits_slot)];
  }

 private:
  KvLayout layout_of(const LayerCache& cache) const {
    return {plan_.num_kv_heads, plan_.head_dim, static_cast<int>(dtype_size(cache.dtype))};
  }
  WeightView weight(WeightIndex index) const {
    if (index == kNone) return {};
    const auto i = static_cast<std::size_t>(index);
    return {plan_.weights[i].dtype, weights_[i].data()};
  }
  const float* in(Slot slot) const { return slots_[static_cast<std::size_t>(slot)].data(); }
  float* out(Slot slot, std::int64_t rows) {
    const auto i = static_cast<std::size_t>(slot);
    rows_[i] = rows;
    slots_[i].resize(static_cast<std::size_t>(rows * plan_.slot_cols[i]));
    return slots_[i].data();
  }
  std::int64_t rows(Slot slot) const { return rows_[static_cast<std::size_t>(slot)]; }
  std::int64_t cols(Slot slot) const { return plan_.slot_cols[static_cast<std::size_t>(slot)]; }
  KvCacheView cache(std::int32_t layer) {
    const auto i = static_cast<std::size_t>(layer);
    const LayerCache& c = plan_.caches[i];
    return {layout_of(c),
            k_[i].data(),
            v_[i].data(),
            {c.k_scale.data(), c.v_scale.data(), c.q_scale.empty() ? nullptr : c.q_scale.data(),
             static_cast<int>(c.k_scale.size())}};
  }

  void run_step(const Batch&, const RmsNormStep& s) {
    float* to = out(s.out, rows(s.in));
    reference::rms_norm({in(s.in), weight(s.weight), to, rows(s.in), cols(s.in), s.eps});
  }
  void run_step(const Batch&, const LinearStep& s) {
    float* to = out(s.out, rows(s.in));
    reference::linear({in(s.in), weight(s.weight), weight(s.bias),
                       s.residual == kNone ? nullptr : in(s.residual), to, rows(s.in), cols(s.in),
                       cols(s.out)});
  }
  void run_step(const Batch& batch, const RopeKvWriteStep& s) {
    float* to = out(s.q_out, rows(s.qkv));
    reference::rope_kv_write({in(s.qkv), to, plan_.num_heads, plan_.model_dtype, weight(s.q_norm),
                              weight(s.k_norm), s.norm_eps, plan_.rope_inv_freq.data(),
                              plan_.rope_attention_factor, cache(s.layer), batch.sequences.data(),
                              static_cast<int>(batch.sequences.size())});
  }
  void run_step(const Batch& batch, const AttentionStep& s) {
    float* to = out(s.out, rows(s.q));
    reference::attention({in(s.q), to, plan_.num_heads, plan_.softmax_scale, cache(s.layer),
                          batch.sequences.data(), static_cast<int>(batch.sequences.size())});
  }
  void run_step(const Batch&, const SwiGluStep& s) {
    float* to = out(s.out, rows(s.gate_up));
    reference::swiglu({in(s.gate_up), to, rows(s.gate_up), cols(s.out)});
  }
  void run_step(const Batch& batch, const SelectRowsStep& s) {
    float* to = out(s.out, static_cast<std::int64_t>(batch.logits_rows.size()));
    for (const std::int32_t row : batch.logits_rows) {
      to = std::copy_n(in(s.in) + row * cols(s.in), cols(s.in), to);
    }
  }

  const Plan& plan_;
  std::vector<std::vector<std::byte>> weights_;
  std::vector<std::vector<std::uint8_t>> k_, v_;
  std::vector<std::vector<float>> slots_;
  std::vector<std::int64_t> rows_;
};

std::vector<std::int32_t> random_ids(std::int64_t rows, Random& random) {
  std::uniform_int_distribution<std::int32_t> any(0, kVocab - 1);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(rows));
  for (std::int32_t& id : ids) id = any(random);
  return ids;
}

Result<std::unique_ptr<Backend>> open_backend(const Plan& plan, const BackendOptions& options) {
  return cpu::make_cpu_backend(plan, embedding(), options);
}

std::vector<float> run(Backend& backend, const Batch& batch, TapSink* taps = nullptr) {
  const Status status = backend.run(batch, taps);
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  std::vector<float> logits(batch.logits_rows.size() * kVocab);
  backend.read_logits(logits).value();
  return logits;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double error = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);
}

TEST(CpuBackend, ATinyModelAgreesWithTheReferencesStepByStep) {
  for (const DType cache : {DType::kF16, DType::kF8E4M3}) {
    for (const DType weights : {DType::kF16, DType::kBF16}) {
      Random random(41);
      const Plan plan = tiny_plan(cache, weights, weights == DType::kBF16, random);
      TestBatch prompts({{0, 70}, {0, 3}, {0, 64}}, random);
      const int pages = prompts.num_pages + 3;
      auto backend =
          open_backend(plan, {.num_threads = 2, .num_pages = pages, .max_rows = 200}).value();
      ReferenceRunner reference(plan, pages);
      for (std::size_t s = 0; s < 3; ++s) {  // a page more, for the decode steps
        prompts.tables[s].push_back(prompts.num_pages + static_cast<int>(s));
        prompts.slices[s].page_table = prompts.tables[s].data();
      }
      auto ids = random_ids(prompts.rows, random);
      std::vector<std::int32_t> wanted = {0, 69, 72, 100, 136};
      Batch batch{ids, prompts.slices, wanted};
      // Between the two, an FP8 code may differ where a value lies next to a tie: hence more
      // than FP32 rounding, though far less than one code's 6 percent everywhere.
      EXPECT_LT(relative_error(run(*backend, batch), reference.run(batch)), 3e-3);

      std::vector<SequenceSlice> slices = prompts.slices;
      for (int step = 0; step < 2; ++step) {  // decode, mixed with a chunk of the last prompt
        const std::int32_t chunk = step == 0 ? 5 : 1;
        const std::int32_t counts[] = {1, 1, chunk};
        std::int64_t row = 0;
        for (std::size_t s = 0; s < 3; ++s) {
          slices[s].past_tokens += slices[s].num_tokens;
          slices[s].num_tokens = counts[s];
          slices[s].first_row = row;
          row += counts[s];
        }
        ids = random_ids(row, random);
        wanted = {0, 1, static_cast<std::int32_t>(row) - 1};
        batch = {ids, slices, wanted};
        EXPECT_LT(relative_error(run(*backend, batch), reference.run(batch)), 3e-3);
      }
    }
  }
}

TEST(CpuBackend, ChunkedPrefillEqualsWholePrefill) {
  Random random(42);
  const Plan plan = tiny_plan(DType::kF16, DType::kF16, false, random);
  const std::vector<std::int32_t> table = {2, 0, 1};
  const auto ids = random_ids(150, random);
  const std::vector<std::int32_t> last = {149};
  const SequenceSlice whole{0, 150, 0, table.data()};
  auto backend = open_backend(plan, {2, 3, 150}).value();
  const auto expected = run(*backend, {ids, {&whole, 1}, last});

  auto chunked = open_backend(plan, {2, 3, 64}).value();
  std::vector<float> got;
  for (std::int32_t first = 0; first < 150; first += 50) {
    const SequenceSlice slice{0, 50, first, table.data()};
    const std::vector<std::int32_t> wanted = {49};
    got = run(*chunked,
              {std::span(ids).subspan(static_cast<std::size_t>(first), 50), {&slice, 1}, wanted});
  }
  EXPECT_LT(relative_error(got, expected), 3e-3);
}

TEST(CpuBackend, CopiedPagesCarryASequenceOn) {
  Random random(43);
  const Plan plan = tiny_plan(DType::kF8E4M3, DType::kF16, false, random);
  auto backend = open_backend(plan, {1, 4, 64}).value();
  const std::vector<std::int32_t> original = {1}, copy = {3};
  const auto ids = random_ids(21, random);
  const SequenceSlice prompt{0, 20, 0, original.data()};
  run(*backend, {std::span(ids).first(20), {&prompt, 1}, {}});
  ASSERT_TRUE(backend->copy_page(1, 3).ok());
  const std::vector<std::int32_t> wanted = {0};
  const SequenceSlice next{0, 1, 20, original.data()}, forked{0, 1, 20, copy.data()};
  const auto expected = run(*backend, {std::span(ids).last(1), {&next, 1}, wanted});
  EXPECT_EQ(run(*backend, {std::span(ids).last(1), {&forked, 1}, wanted}), expected);
}

class CountingTap final : public TapSink {
 public:
  bool wants_values() const override { return true; }
  void on_value(std::string_view name, std::int64_t rows, std::int64_t cols,
                const float* values) override {
    names.emplace(name);
    last.assign(values, values + rows * cols);
  }
  std::set<std::string> names;
  std::vector<float> last;

  void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
              const float* v) override {
    layers.push_back(layer);
    sums.push_back(q[0] + k[0] + v[rows * kKvHeads * kHeadDim - 1]);
  }
  std::vector<std::int32_t> layers;
  std::vector<float> sums;
};

TEST(CpuBackend, TapsSeeEveryLayerAndChangeNothing) {
  Random random(44);
  const Plan plan = tiny_plan(DType::kF16, DType::kBF16, true, random);
  auto backend = open_backend(plan, {2, 1, 64}).value();
  const std::vector<std::int32_t> table = {0}, wanted = {9};
  const auto ids = random_ids(10, random);
  const SequenceSlice slice{0, 10, 0, table.data()};
  const Batch batch{ids, {&slice, 1}, wanted};
  const auto expected = run(*backend, batch);
  CountingTap tap;
  EXPECT_EQ(run(*backend, batch, &tap), expected);
  EXPECT_EQ(tap.layers, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(tap.names.size(), plan.steps.size());
  EXPECT_TRUE(tap.names.contains("3: attention of layer 0"));
  EXPECT_EQ(tap.last, expected);
  for (const float sum : tap.sums) EXPECT_TRUE(std::isfinite(sum) && sum != 0.0f);
}

TEST(CpuBackend, RefusesWhatDoesNotFit) {
  Random random(45);
  const Plan plan = tiny_plan(DType::kF16, DType::kF16, false, random);
  const auto huge = open_backend(plan, {1, 2000000000, 64});
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(huge.error().code, ErrorCode::kCapacity);
  EXPECT_NE(huge.error().message.find("bytes"), std::string::npos);
  const auto rows = open_backend(plan, {1, 1, std::int64_t{1} << 60});
  ASSERT_FALSE(rows.ok());
  EXPECT_EQ(rows.error().code, ErrorCode::kCapacity);
  EXPECT_FALSE(open_backend(plan, {1, 0, 64}).ok());

  auto backend = open_backend(plan, {1, 9, 16}).value();
  EXPECT_EQ(backend->max_rows(), 16);
  EXPECT_EQ(backend->num_pages(), 9);
  const auto ids = random_ids(17, random);
  std::vector<std::int32_t> table = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  SequenceSlice slice{0, 17, 0, table.data()};
  const Status too_many = backend->run({ids, {&slice, 1}, {}}, nullptr);
  ASSERT_FALSE(too_many.ok());
  EXPECT_EQ(too_many.error().code, ErrorCode::kCapacity);
  auto few_logits = open_backend(plan, {1, 9, 32, 2}).value();
  const std::vector<std::int32_t> three = {0, 1, 2};
  const Status too_many_logits = few_logits->run({ids, {&slice, 1}, three}, nullptr);
  ASSERT_FALSE(too_many_logits.ok());
  EXPECT_EQ(too_many_logits.error().code, ErrorCode::kCapacity);
  slice = {0, 1, 512, table.data()};
  const Status too_far = backend->run({std::span(ids).first(1), {&slice, 1}, {}}, nullptr);
  ASSERT_FALSE(too_far.ok());
  EXPECT_EQ(too_far.error().code, ErrorCode::kCapacity);
  slice = {0, 1, 0, table.data()};
  table[0] = 9;
  EXPECT_THROW((void)backend->run({std::span(ids).first(1), {&slice, 1}, {}}, nullptr),
               ContractError);
}

TEST(PlanValidation, FindsEveryKindOfDamage) {
  const auto damaged = [](const auto& damage) {
    Random random(46);
    Plan plan = tiny_plan(DType::kF8E4M3, DType::kF16, true, random);
    damage(plan);
    return !validate(plan).ok() && !open_backend(plan, {1, 1, 4}).ok();
  };
  Random random(46);
  ASSERT_TRUE(validate(tiny_plan(DType::kF8E4M3, DType::kF16, true, random)).ok());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(damaged([](Plan& p) { p.num_heads = 5; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.num_kv_heads = 0; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.head_dim = 12; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.head_dim = 264; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.model_dtype = DType::kF32; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.caches.pop_back(); }));
  EXPECT_TRUE(damaged([&](Plan& p) { p.caches[0].k_scale[0] = nan; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.caches[1].v_scale.pop_back(); }));
  EXPECT_TRUE(damaged([](Plan& p) { p.caches[1].q_scale = {-1.0f}; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.caches[0].dtype = DType::kU8; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.rope_inv_freq.pop_back(); }));
  EXPECT_TRUE(damaged([](Plan& p) { p.slot_cols[5] += 1; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.weights[1].shape[1] += 1; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.weights[1].parts.pop_back(); }));
  EXPECT_TRUE(damaged([](Plan& p) { p.weights[1].dtype = DType::kI32; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<LinearStep>(p.steps[1]).weight = 1000; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<LinearStep>(p.steps[1]).out = -7; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<LinearStep>(p.steps[1]).in = 6; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<LinearStep>(p.steps[1]).residual = 99; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<RopeKvWriteStep>(p.steps[2]).layer = 2; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<AttentionStep>(p.steps[3]).layer = -1; }));
  EXPECT_TRUE(damaged([](Plan& p) { std::get<AttentionStep>(p.steps[3]).out = 3; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.steps.pop_back(); }));
  EXPECT_TRUE(damaged([](Plan& p) { p.logits_slot = 0; }));
  EXPECT_TRUE(damaged([](Plan& p) { p.input_slot = 10; }));
}

TEST(PlanBytes, CountsEveryLayersCache) {
  Random random(47);
  const Plan mixed = tiny_plan(DType::kF16, DType::kF16, false, random);
  EXPECT_EQ(mixed.kv_bytes_per_token(), 2 * kKvHeads * kHeadDim * (2 + 1));
  EXPECT_EQ(kv_bytes_per_token(mixed, DType::kF16), 2 * kKvHeads * kHeadDim * 2 * kLayers);
  EXPECT_EQ(2 * kv_bytes_per_token(mixed, DType::kF8E4M3), kv_bytes_per_token(mixed, DType::kF16));
}

}  // namespace
}  // namespace kv8
