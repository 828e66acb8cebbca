#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cuda/dense/sample/launch.h"
#include "cuda/dense_testing.h"
#include "cuda/gpu.h"
#include "ops/sampling.h"

namespace kv8 {
namespace {

using cuda_testing::DeviceArray;
using cuda_testing::normal_values;

/// A batch whose rows go through the kernel together and through the reference one by one.
struct Batch {
  explicit Batch(int vocab) : vocab(vocab) {}
  int vocab;
  std::vector<float> logits;
  std::vector<SampleSettings> settings;
  std::vector<SampleBias> bias;

  void add(const std::vector<float>& row, SampleSettings s,
           const std::vector<SampleBias>& row_bias = {}) {
    s.first_bias = static_cast<std::int32_t>(bias.size());
    s.num_bias = static_cast<std::int32_t>(row_bias.size());
    logits.insert(logits.end(), row.begin(), row.end());
    bias.insert(bias.end(), row_bias.begin(), row_bias.end());
    settings.push_back(s);
  }
  int rows() const { return static_cast<int>(settings.size()); }
};

/// Launches twice on one workspace: the second launch finds what the first one left.
class Sampler {
 public:
  explicit Sampler(const Batch& batch)
      : logits_(batch.logits),
        settings_(batch.settings),
        bias_(batch.bias),
        tokens_(batch.rows()),
        ids_(batch.rows()),
        top_(batch.rows() * kSampleMaxLogprobs),
        workspace_(std::vector<std::uint8_t>(sample_workspace_bytes(batch.rows()), 0)) {
    args_.logits = logits_.get();
    args_.settings = settings_.get();
    args_.bias = bias_.get();
    args_.tokens = tokens_.get();
    args_.ids = ids_.get();
    args_.top = top_.get();
    args_.workspace = workspace_.get();
    args_.rows = batch.rows();
    args_.vocab = batch.vocab;
    args_.few_logits = std::ranges::all_of(batch.settings, needs_few_logits);
  }
  void launch() {
    const Status status = launch_sample(args_, nullptr);
    ASSERT_TRUE(status.ok()) << status.error().message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  void set(const std::vector<SampleSettings>& settings) { settings_.set(settings); }
  std::vector<SampleToken> tokens() const { return tokens_.values(); }
  std::vector<std::int32_t> ids() const { return ids_.values(); }
  std::vector<SampleTop> top() const { return top_.values(); }

 private:
  DeviceArray<float> logits_;
  DeviceArray<SampleSettings> settings_;
  DeviceArray<SampleBias> bias_;
  DeviceArray<SampleToken> tokens_;
  DeviceArray<std::int32_t> ids_;
  DeviceArray<SampleTop> top_;
  DeviceArray<std::uint8_t> workspace_;
  SampleArgs args_;
};

SampledToken reference_row(const Batch& batch, int row) {
  const SampleSettings& s = batch.settings[row];
  SampleRow params;
  params.temperature = s.temperature;
  params.top_p = s.top_p;
  params.top_k = s.top_k;
  params.seed = s.seed;
  params.step = s.step;
  params.num_logprobs = s.num_logprobs;
  std::vector<LogitBias> bias;
  for (int i = 0; i < s.num_bias; ++i) {
    bias.push_back({batch.bias[s.first_bias + i].id, batch.bias[s.first_bias + i].bias});
  }
  params.logit_bias = bias;
  return sample_row(
      {batch.logits.data() + std::size_t(row) * batch.vocab, static_cast<std::size_t>(batch.vocab)},
      params);
}

void expect_logprob(double got, double want, const std::string& what) {
  if (std::isinf(want)) {
    EXPECT_EQ(got, want) << what;
  } else {
    EXPECT_NEAR(got, want, 1e-12 * (1.0 + std::abs(want))) << what;
  }
}

void expect_row(const SampledToken& want, const SampleToken& got, std::int32_t id,
                const SampleTop* top, bool logprobs, const std::string& name) {
  EXPECT_EQ(static_cast<int>(got.fault), static_cast<int>(want.fault)) << name;
  EXPECT_EQ(got.id, want.chosen.id) << name;
  EXPECT_EQ(id, want.fault == LogitsFault::kNone ? want.chosen.id : -1) << name;
  if (!logprobs || want.fault != LogitsFault::kNone) return;
  expect_logprob(got.logprob, want.chosen.logprob, name);
  for (std::size_t i = 0; i < want.top.size(); ++i) {
    EXPECT_EQ(top[i].id, want.top[i].id) << name << ", place " << i;
    expect_logprob(top[i].logprob, want.top[i].logprob, name);
  }
}

void expect_reference(const Batch& batch, const std::string& what) {
  Sampler sampler(batch);
  std::vector<SampledToken> want;
  for (int row = 0; row < batch.rows(); ++row) want.push_back(reference_row(batch, row));
  for (int launch = 0; launch < 2; ++launch) {
    sampler.launch();
    const std::vector<SampleToken> tokens = sampler.tokens();
    const std::vector<SampleTop> top = sampler.top();
    const std::vector<std::int32_t> ids = sampler.ids();
    for (int row = 0; row < batch.rows(); ++row) {
      expect_row(want[row], tokens[row], ids[row], &top[std::size_t(row) * kSampleMaxLogprobs],
                 batch.settings[row].num_logprobs > 0, what + ", row " + std::to_string(row));
    }
  }
}

SampleSettings settings(float temperature, std::int32_t top_k, float top_p, std::uint64_t seed,
                        std::int32_t num_logprobs = 0) {
  SampleSettings s;
  s.temperature = temperature;
  s.top_k = top_k;
  s.top_p = top_p;
  s.seed = seed;
  s.step = seed * 7 + 3;
  s.num_logprobs = num_logprobs;
  return s;
}

/// Every combination of settings on one row of logits.
void add_all_settings(Batch& batch, const std::vector<float>& row, std::mt19937& random) {
  for (const float temperature : {0.0f, 0.7f, 1.0f, 3.0f}) {
    for (const int top_k : {0, 1, 3, 50, 64, 65, 1000, 1 << 30}) {
      for (const float top_p : {0.0f, 0.3f, 0.9f, 1.0f}) {
        const bool logprobs = random() % 4 == 0;
        batch.add(row, settings(temperature, top_k, top_p, random(), logprobs ? 20 : 0));
      }
    }
  }
}

TEST(SampleTest, RandomRowsOfEverySizeAndSetting) {
  KV8_NEEDS_GPU();
  std::mt19937 random(1);
  for (const int vocab : {1, 2, 31, 1000, 4096, 4097, 49152, 151936}) {
    Batch batch(vocab);
    add_all_settings(batch, normal_values(vocab, 2.5f, random), random);
    expect_reference(batch, "vocabulary " + std::to_string(vocab));
  }
}

TEST(SampleTest, RowsOfFewLogitsNeedOneKernel) {
  KV8_NEEDS_GPU();
  std::mt19937 random(8);
  for (const int vocab : {1000, 151936}) {
    Batch batch(vocab);
    for (int i = 0; i < 12; ++i) {
      batch.add(normal_values(vocab, 2.5f, random),
                settings(i % 3 * 0.6f, 1 + i * 5, 0.9f, random(), i % 2 * 64));
    }
    expect_reference(batch, "vocabulary " + std::to_string(vocab));
  }
}

TEST(SampleTest, ManyDrawsAgree) {
  KV8_NEEDS_GPU();
  std::mt19937 random(2);
  constexpr int kVocab = 3000;
  Batch batch(kVocab);
  const std::vector<float> row = normal_values(kVocab, 2.0f, random);
  for (int i = 0; i < 2000; ++i) {
    const float top_p = i % 3 == 0 ? 1.0f : 0.05f + 0.0005f * i * (i % 2 + 0.9f);
    batch.add(row, settings(0.3f + i % 17 * 0.2f, i % 5 == 0 ? i : 0, std::min(top_p, 1.0f), i));
  }
  expect_reference(batch, "draws");
}

TEST(SampleTest, NastyRows) {
  KV8_NEEDS_GPU();
  std::mt19937 random(3);
  constexpr int kVocab = 20000;
  const auto filled = [&](auto value) {
    std::vector<float> row(kVocab);
    for (int i = 0; i < kVocab; ++i) row[i] = value(i);
    return row;
  };
  const std::vector<float> noise = normal_values(kVocab, 1.0f, random);
  const std::vector<std::vector<float>> rows = {
      filled([](int) { return 0.25f; }),                                  // all equal
      filled([](int i) { return i % 2 ? 0.0f : -0.0f; }),                 // equal, two zeros
      filled([](int i) { return i % 3 ? -INFINITY : 1.0f; }),             // masked
      filled([](int i) { return i == 12345 ? -5.0f : -INFINITY; }),       // one left
      filled([&](int i) { return 1e30f * noise[i]; }),                    // huge spread
      filled([&](int i) { return 1e-30f * noise[i]; }),                   // no spread
      filled([&](int i) { return 100.0f + 1e-5f * noise[i]; }),           // few distinct values
      filled([&](int i) { return std::round(4.0f * noise[i]) / 4.0f; }),  // many ties
      filled([](int i) { return i < 10000 ? 3.0f : 2.0f; }),              // two values
      filled([](int i) { return -0.01f * i; }),
      filled([](int i) { return std::ldexp(1.0f, i % 250 - 125); }),
      filled([&](int i) { return i == 777 ? 60.0f : noise[i]; }),  // one that dominates
  };
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Batch batch(kVocab);
    add_all_settings(batch, rows[i], random);
    expect_reference(batch, "nasty row " + std::to_string(i));
  }
}

TEST(SampleTest, BadRowsAreFlaggedAndTheirNeighboursAreNot) {
  KV8_NEEDS_GPU();
  std::mt19937 random(4);
  constexpr int kVocab = 9000;
  Batch batch(kVocab);
  for (const float temperature : {0.0f, 1.0f}) {
    for (const int logprobs : {0, 5}) {
      const std::vector<float> good = normal_values(kVocab, 2.0f, random);
      const SampleSettings s = settings(temperature, 0, 0.9f, random(), logprobs);
      batch.add(good, s);
      std::vector<float> row = good;
      row[8999] = NAN;
      batch.add(row, s);
      row[5000] = INFINITY;
      batch.add(row, s);
      row[4999] = -NAN;
      batch.add(row, s);
      batch.add(std::vector<float>(kVocab, -INFINITY), s);
      batch.add(good, s);
    }
  }
  expect_reference(batch, "bad rows");
}

TEST(SampleTest, BiasMovesTokensAndLeavesLogprobs) {
  KV8_NEEDS_GPU();
  std::mt19937 random(5);
  constexpr int kVocab = 10000;
  Batch batch(kVocab);
  for (int i = 0; i < 60; ++i) {
    const std::vector<float> row = normal_values(kVocab, 2.0f, random);
    const int best = static_cast<int>(std::max_element(row.begin(), row.end()) - row.begin());
    std::vector<SampleBias> bias = {{best, -100.0f}, {(best + 1) % kVocab, 7.5f}};
    for (int j = 0; j < i * 10; ++j) {
      const int id = (best + 2 + j * 13) % kVocab;
      bias.push_back({id, -3.0f + 0.01f * j});
    }
    batch.add(row, settings(i % 3 == 0 ? 0.0f : 0.8f, i % 4 * 20, 0.95f, i, i % 2 * 50), bias);
  }
  expect_reference(batch, "bias");
}

TEST(SampleTest, LargestVocabularyAndMoreRowsThanTheDeviceHolds) {
  KV8_NEEDS_GPU();
  std::mt19937 random(6);
  Batch large(262144);
  const std::vector<float> row = normal_values(262144, 3.0f, random);
  for (int i = 0; i < 12; ++i) {
    large.add(row, settings(i % 4 * 0.5f, i % 3 * 40, 0.5f + 0.04f * i, i, i % 2 * 64));
  }
  expect_reference(large, "largest vocabulary");
}

TEST(SampleTest, SettingsAreReadByEachLaunch) {
  KV8_NEEDS_GPU();
  std::mt19937 random(7);
  constexpr int kVocab = 5000;
  Batch batch(kVocab);
  const std::vector<float> row = normal_values(kVocab, 1.0f, random);
  for (int i = 0; i < 4; ++i) batch.add(row, settings(1.0f, 0, 0.95f, i));
  Sampler sampler(batch);
  for (int step = 0; step < 20; ++step) {
    for (SampleSettings& s : batch.settings) s.step = step;
    sampler.set(batch.settings);
    sampler.launch();
    const std::vector<std::int32_t> ids = sampler.ids();
    for (int i = 0; i < 4; ++i) EXPECT_EQ(ids[i], reference_row(batch, i).chosen.id) << step;
  }
}

TEST(SampleTest, RefusesEmptyWork) {
  EXPECT_FALSE(launch_sample({}, nullptr).ok());
  SampleArgs args;
  args.logits = reinterpret_cast<const float*>(16);
  args.settings = reinterpret_cast<const SampleSettings*>(16);
  args.tokens = reinterpret_cast<SampleToken*>(16);
  args.workspace = reinterpret_cast<void*>(16);
  args.rows = 1;
  args.vocab = 262145;
  EXPECT_FALSE(launch_sample(args, nullptr).ok());
}

}  // namespace
}  // namespace kv8
