// Calibration finds the same maxima on the GPU as on the CPU, to rounding.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/temp_dir.h"
#include "bench/geometry.h"
#include "exec/backends.h"
#include "exec/sequence.h"
#include "quant/calibrate.h"
#include "quant/kv_observer.h"
#include "support/expect_error.h"
#include "support/tiny_checkpoint.h"

namespace kv8::quant {
namespace {

bool has_gpu() { return exec::backend_architecture("cuda").ok(); }

void expect_near(const std::vector<float>& cpu, const std::vector<float>& gpu, double relative,
                 const std::string& what) {
  ASSERT_EQ(cpu.size(), gpu.size());
  const double largest = *std::max_element(cpu.begin(), cpu.end());
  for (std::size_t head = 0; head < cpu.size(); ++head) {
    EXPECT_NEAR(cpu[head], gpu[head], relative * largest) << what << ", head " << head;
  }
}

/// The GPU rounds what goes between its kernels to the model's type, the CPU nothing: relative
/// errors of 2^-11 (FP16) or 2^-8 (BF16) at a few places of each layer, averaged by the sums of
/// the products behind them. Eight of them bound what two or three layers add up.
void expect_same_maxima(const std::vector<LayerAmax>& cpu, const std::vector<LayerAmax>& gpu,
                        DType model_dtype) {
  const double relative = 8 * (model_dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11);
  ASSERT_EQ(cpu.size(), gpu.size());
  for (std::size_t layer = 0; layer < cpu.size(); ++layer) {
    SCOPED_TRACE(layer);
    expect_near(cpu[layer].q, gpu[layer].q, relative, "q");
    expect_near(cpu[layer].k, gpu[layer].k, relative, "k");
    expect_near(cpu[layer].v, gpu[layer].v, relative, "v");
  }
}

/// Maxima over two prompts in one step.
std::vector<LayerAmax> maxima(const io::Checkpoint& checkpoint, const std::string& backend_name) {
  constexpr std::int32_t kLong = 100, kShort = 29;
  exec::BuilderConfig config;
  config.backend = backend_name;
  const auto engine = exec::Engine::from_checkpoint(checkpoint, false, config).value();
  const auto backend = engine
                           ->open_backend({.num_threads = 2,
                                           .num_pages = 3,
                                           .max_rows = kLong + kShort,
                                           .max_logits_rows = 1,
                                           .max_sequences = 2})
                           .value();
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < kLong + kShort; ++i) ids.push_back(i * 7919 % 304);
  exec::KvPool pool(backend->num_pages());
  exec::Sequence first(pool), second(pool);
  const std::vector<exec::StepItem> items = {
      {&first, std::span(ids).first(kLong), exec::StepItem::Logits::kNone},
      {&second, std::span(ids).last(kShort), exec::StepItem::Logits::kNone}};
  KvObserver observer(engine->plan());
  exec::run_step(*backend, items, &observer).value();
  return observer.amax().value();
}

struct Case {
  const char* geometry;
  DType dtype;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.geometry << " " << dtype_name(c.dtype); }

class MaximaOf : public testing::TestWithParam<Case> {};

TEST_P(MaximaOf, TheGpuAreThoseOfTheCpu) {
  if (!has_gpu()) GTEST_SKIP() << "skipped: no GPU";
  io::ModelConfig config = bench::geometry_config(GetParam().geometry, 2).value();
  config.vocab_size = 304;
  const io::Checkpoint checkpoint = bench::random_checkpoint(config, GetParam().dtype).value();
  expect_same_maxima(maxima(checkpoint, "cpu"), maxima(checkpoint, "cuda"), GetParam().dtype);
}

INSTANTIATE_TEST_SUITE_P(Geometries, MaximaOf,
                         testing::Values(Case{"smollm2-135m", DType::kF16},
                                         Case{"qwen2.5-0.5b", DType::kF16},
                                         Case{"qwen3-0.6b", DType::kF16},
                                         Case{"qwen3-0.6b", DType::kBF16},
                                         Case{"llama-3.2-1b", DType::kBF16}));

CalibrationOptions options_on(const std::string& backend) {
  CalibrationOptions options;
  options.dataset = "builtin";
  options.num_samples = 12;
  options.sample_tokens = 96;
  options.num_threads = 2;
  options.backend = backend;
  return options;
}

class CalibrateDevice : public testing::Test {
 protected:
  CalibrateDevice() { test::make_tiny_checkpoint("qwen2", dir_ / "model"); }
  test::TempDir dir_;
};

TEST_F(CalibrateDevice, TextsGiveTheSameMaxima) {
  if (!has_gpu()) GTEST_SKIP() << "skipped: no GPU";
  const CalibrationResult cpu = calibrate(dir_ / "model", options_on("cpu"), {}).value();
  const CalibrationResult gpu = calibrate(dir_ / "model", options_on("cuda"), {}).value();
  EXPECT_EQ(cpu.num_tokens, gpu.num_tokens);
  expect_same_maxima(cpu.layers, gpu.layers, DType::kF16);
}

TEST_F(CalibrateDevice, AutoSaysWhatItTook) {
  std::string said;
  Reporter reporter;
  reporter.log = [&said](LogLevel, std::string_view line) { said += std::string(line) + "\n"; };
  ASSERT_TRUE(calibrate(dir_ / "model", options_on("auto"), reporter).ok());
  EXPECT_NE(said.find(has_gpu() ? "running on the GPU" : "running on the CPU"), std::string::npos)
      << said;
}

TEST_F(CalibrateDevice, CudaWithoutAGpuIsRefused) {
  if (has_gpu()) GTEST_SKIP() << "skipped: there is a GPU";
  test::expect_error(calibrate(dir_ / "model", options_on("cuda"), {}), {"cuda"});
}

}  // namespace
}  // namespace kv8::quant
