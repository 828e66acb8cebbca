#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/json.h"
#include "base/temp_dir.h"
#include "exec/sequence.h"
#include "formats/float_formats.h"
#include "io/checkpoint.h"
#include "quant/calibrate.h"
#include "quant/checkpoint_writer.h"
#include "quant/dataset.h"
#include "support/tiny_checkpoint.h"

namespace kv8::quant {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::map<std::string, std::string> files_of(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(dir)) {
    files[entry.path().filename().string()] = test::read_bytes(entry.path());
  }
  return files;
}

class QuantizeTest : public testing::Test {
 protected:
  QuantizeOptions options_for(const std::string& model, const std::string& output) {
    if (!fs::exists(dir_ / model)) test::make_tiny_checkpoint(model, dir_ / model);
    QuantizeOptions options;
    options.model_dir = dir_ / model;
    options.output_dir = dir_ / output;
    options.kv_cache_fp8 = true;
    options.calibration.dataset = "builtin";
    options.calibration.num_samples = 6;
    options.calibration.sample_tokens = 96;
    options.calibration.num_threads = 1;
    return options;
  }
  CalibrationResult calibrate_text(const std::string& model, const std::string& name,
                                   const std::string& text) {
    test::write_bytes(dir_ / name, text);
    CalibrationOptions options = options_for(model, "unused").calibration;
    options.dataset = (dir_ / name).string();
    return calibrate(dir_ / model, options, {}).value();
  }

  test::TempDir dir_;
};

/// Q, K and V of every row, as they pass.
class Recorder : public TapSink {
 public:
  void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
              const float* v) override {
    record(layer, 'q', q, rows * q_cols);
    record(layer, 'k', k, rows * kv_cols);
    record(layer, 'v', v, rows * kv_cols);
  }
  std::map<std::pair<std::int32_t, char>, std::vector<float>> seen;
  std::int64_t q_cols = 0, kv_cols = 0;

 private:
  void record(std::int32_t layer, char what, const float* values, std::int64_t count) {
    auto& all = seen[{layer, what}];
    all.insert(all.end(), values, values + count);
  }
};

float largest(const std::vector<float>& values, int heads, int head_dim, int head) {
  float result = 0.0f;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool mine = static_cast<int>(i) / head_dim % heads == head;
    if (mine) result = std::max(result, std::abs(values[i]));
  }
  return f16_to_float(f16_from_float(result));
}

TEST_F(QuantizeTest, AmaxIsThatOfEveryTokenAlone) {
  const QuantizeOptions options = options_for("qwen3", "unused");
  const CalibrationResult result = calibrate(options.model_dir, options.calibration, {}).value();
  const auto tokenizer = text::Tokenizer::load(options.model_dir).value();
  const Dataset dataset = load_dataset(options.calibration, tokenizer, {}).value();
  EXPECT_EQ(result.num_samples, 6);
  EXPECT_EQ(result.num_tokens, 6 * 96);
  EXPECT_EQ(result.dataset_sha256, dataset.sha256);

  const auto engine = exec::Engine::from_checkpoint(options.model_dir, false, {}).value();
  const Plan& plan = engine->plan();
  const auto backend =
      engine->open_backend({.num_threads = 1, .num_pages = 2, .max_rows = 1}).value();
  Recorder recorder;
  recorder.q_cols = plan.num_heads * plan.head_dim;
  recorder.kv_cols = plan.num_kv_heads * plan.head_dim;
  exec::KvPool pool(2);
  std::vector<float> logits;
  for (const auto& sample : dataset.samples) {
    exec::Sequence sequence(pool);
    exec::run_prefill(*engine, *backend, sequence, sample, 1, exec::StepItem::Logits::kNone, logits,
                      &recorder)
        .value();
  }
  for (std::int32_t layer = 0; layer < plan.num_layers; ++layer) {
    const LayerAmax& amax = result.layers.at(static_cast<std::size_t>(layer));
    const auto check = [&](char what, const std::vector<float>& values) {
      const int heads = static_cast<int>(values.size());
      for (int head = 0; head < heads; ++head) {
        const float expected = largest(recorder.seen[{layer, what}], heads, plan.head_dim, head);
        // One token at a time takes other kernels than a prefill: sums in another order.
        EXPECT_NEAR(values[static_cast<std::size_t>(head)], expected, 2e-3f * expected)
            << what << " of layer " << layer << ", head " << head;
      }
    };
    check('q', amax.q);
    check('k', amax.k);
    check('v', amax.v);
  }
}

TEST_F(QuantizeTest, ShortSamplesTogetherCountLikeEachAlone) {
  const std::vector<std::string> texts = {"a", "The quick brown fox", "42",
                                          "int main() { return 0; }"};
  std::string lines;
  for (const std::string& text : texts) lines += "{\"text\": \"" + text + "\"}\n";
  const CalibrationResult together = calibrate_text("llama3", "all.jsonl", lines);
  EXPECT_EQ(together.num_samples, 4);
  std::int64_t tokens = 0;
  std::vector<LayerAmax> expected;
  for (const std::string& text : texts) {
    const CalibrationResult alone =
        calibrate_text("llama3", "one.jsonl", "{\"text\": \"" + text + "\"}");
    tokens += alone.num_tokens;
    if (expected.empty()) expected = alone.layers;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto join = [](std::vector<float>& all, const std::vector<float>& one) {
        for (std::size_t j = 0; j < all.size(); ++j) all[j] = std::max(all[j], one[j]);
      };
      join(expected[i].q, alone.layers[i].q);
      join(expected[i].k, alone.layers[i].k);
      join(expected[i].v, alone.layers[i].v);
    }
  }
  EXPECT_EQ(together.num_tokens, tokens);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    for (std::size_t j = 0; j < expected[i].k.size(); ++j) {
      EXPECT_NEAR(together.layers[i].k[j], expected[i].k[j], 2e-3f * expected[i].k[j]);
      EXPECT_NEAR(together.layers[i].v[j], expected[i].v[j], 2e-3f * expected[i].v[j]);
    }
    for (std::size_t j = 0; j < expected[i].q.size(); ++j) {
      EXPECT_NEAR(together.layers[i].q[j], expected[i].q[j], 2e-3f * expected[i].q[j]);
    }
  }
}

TEST_F(QuantizeTest, TheSameInputGivesTheSameBytes) {
  QuantizeOptions options = options_for("mistral", "first");
  quantize_llm(options, {}).value();
  options.output_dir = dir_ / "second";
  options.calibration.num_threads = 2;
  quantize_llm(options, {}).value();
  const auto first = files_of(dir_ / "first"), second = files_of(dir_ / "second");
  EXPECT_EQ(first.size(), second.size());
  for (const auto& [name, bytes] : first) {
    ASSERT_TRUE(second.contains(name)) << name;
    EXPECT_TRUE(bytes == second.at(name)) << name << " differs";
  }
}

TEST_F(QuantizeTest, WritesTheLayoutOfTheContract) {
  quantize_llm(options_for("qwen3", "out"), {}).value();
  const Json hf = read_json_file(dir_ / "out/hf_quant_config.json").value();
  EXPECT_EQ(hf["producer"]["name"], "kv8");
  EXPECT_TRUE(hf["quantization"]["quant_algo"].is_null());
  EXPECT_EQ(hf["quantization"]["kv_cache_quant_algo"], "FP8");
  const Json config = read_json_file(dir_ / "out/config.json").value();
  EXPECT_EQ(config["quantization_config"]["quant_method"], "modelopt");
  EXPECT_EQ(config["quantization_config"]["kv_cache_scheme"]["num_bits"], 8);
  EXPECT_EQ(config["hidden_size"], 64);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_TRUE(fs::exists(dir_ / "out" / name)) << name;
  }
  const auto checkpoint = io::Checkpoint::open(dir_ / "out").value();
  EXPECT_TRUE(checkpoint.quantization().kv_cache_fp8);
  EXPECT_EQ(checkpoint.tensor("model.layers.0.self_attn.k_proj.k_scale")->shape, Shape{});
  EXPECT_EQ(checkpoint.tensor("model.layers.2.self_attn.v_proj.v_scale")->shape, Shape{});
  EXPECT_EQ(checkpoint.tensor("model.layers.1.self_attn.q_proj.q_scale")->shape, Shape{1});

  const Json calibration = read_json_file(dir_ / "out/kv_calibration.json").value();
  EXPECT_EQ(calibration["dataset"]["name"], "builtin");
  EXPECT_EQ(calibration["dataset"]["sha256"].get<std::string>().size(), 64u);
  EXPECT_EQ(calibration["num_samples"], 6);
  const auto scales = checkpoint.kv_scales().value();
  ASSERT_EQ(calibration["layers"].size(), scales.size());
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const Json& k = calibration["layers"][i]["k"];
    EXPECT_EQ(k["amax"].get<float>() / 448.0f, scales[i].k.at(0));
    EXPECT_EQ(k["amax_per_head"].size(), 2u);
  }
  EXPECT_NE(scales[0].k, scales[1].k);
  EXPECT_NE(scales[0].k, scales[0].v);
}

TEST_F(QuantizeTest, PerHeadScalesDifferByHead) {
  QuantizeOptions options = options_for("qwen3", "out");
  options.per_head = true;
  quantize_llm(options, {}).value();
  const auto checkpoint = io::Checkpoint::open(dir_ / "out").value();
  EXPECT_EQ(checkpoint.tensor("model.layers.0.self_attn.k_proj.k_scale")->shape, Shape{2});
  EXPECT_EQ(checkpoint.tensor("model.layers.0.self_attn.q_proj.q_scale")->shape, Shape{1});
  const auto scales = checkpoint.kv_scales().value();
  for (const auto& layer : scales) {
    ASSERT_EQ(layer.k.size(), 2u);
    EXPECT_NE(layer.k[0], layer.k[1]);
    EXPECT_NE(layer.v[0], layer.v[1]);
  }
}

TEST_F(QuantizeTest, Bf16WeightsBecomeTheSameNumbersInFp16) {
  quantize_llm(options_for("mistral", "out"), {}).value();
  const auto before = io::Checkpoint::open(dir_ / "mistral").value();
  const auto after = io::Checkpoint::open(dir_ / "out").value();
  EXPECT_EQ(after.config().dtype, DType::kF16);
  int converted = 0;
  for (const std::string& name : before.tensor_names()) {
    const TensorView old_tensor = before.tensor(name).value(), tensor = after.tensor(name).value();
    EXPECT_EQ(tensor.dtype, DType::kF16) << name;
    EXPECT_EQ(tensor.shape, old_tensor.shape);
    converted += old_tensor.dtype == DType::kBF16;
    const auto old_values = to_float(old_tensor).value(), values = to_float(tensor).value();
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], f16_to_float(f16_from_float(old_values[i]))) << name << " " << i;
    }
  }
  EXPECT_GT(converted, 0);
}

TEST_F(QuantizeTest, WithoutFp8ItIsAPlainCopy) {
  QuantizeOptions options = options_for("mistral", "out");
  options.kv_cache_fp8 = false;
  quantize_llm(options, {}).value();
  EXPECT_FALSE(fs::exists(dir_ / "out/hf_quant_config.json"));
  EXPECT_FALSE(fs::exists(dir_ / "out/kv_calibration.json"));
  const auto checkpoint = io::Checkpoint::open(dir_ / "out").value();
  EXPECT_FALSE(checkpoint.quantization().kv_cache_fp8);
  EXPECT_EQ(checkpoint.tensor_names().size(),
            io::Checkpoint::open(dir_ / "mistral")->tensor_names().size());
}

/// A copy of a model with one tensor's first element replaced, all in F32.
void write_with_value(const fs::path& from, const fs::path& to, const std::string& tensor,
                      float value) {
  fs::copy(from, to);
  const auto checkpoint = io::Checkpoint::open(from).value();
  std::vector<io::NamedTensor> tensors;
  for (const std::string& name : checkpoint.tensor_names()) {
    const TensorView view = checkpoint.tensor(name).value();
    std::vector<float> values = to_float(view).value();
    if (name == tensor) values[0] = value;
    tensors.push_back({name, tensor_from_floats(values, view.shape)});
  }
  io::write_safetensors(to / "model.safetensors", tensors).value();
}

TEST_F(QuantizeTest, FailuresLeaveNothingBehind) {
  const QuantizeOptions good = options_for("llama3", "out");
  write_with_value(good.model_dir, dir_ / "huge", "model.norm.weight", 70000.0f);
  write_with_value(good.model_dir, dir_ / "inf", "model.layers.1.self_attn.k_proj.weight",
                   std::numeric_limits<float>::infinity());
  const auto message = [&](const char* model) {
    QuantizeOptions options = good;
    options.model_dir = dir_ / model;
    const Status status = quantize_llm(options, {});
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    return status.ok() ? "" : status.error().message;
  };
  EXPECT_THAT(message("huge"), HasSubstr("tensor `model.norm.weight`: element 0 is 70000"));
  EXPECT_THAT(message("inf"), HasSubstr("layer 1: K of head 0"));

  QuantizeOptions onto_itself = good;
  onto_itself.output_dir = good.model_dir;
  EXPECT_THAT(quantize_llm(onto_itself, {}).error().message, HasSubstr("the model's own"));
  QuantizeOptions unknown = good;
  unknown.calibration.dataset = "no such text";
  EXPECT_THAT(quantize_llm(unknown, {}).error().message, HasSubstr("no such text"));
  EXPECT_FALSE(fs::exists(dir_ / "out"));

  quantize_llm(good, {}).value();
  QuantizeOptions again = good;
  again.model_dir = dir_ / "out";
  again.output_dir = dir_ / "twice";
  EXPECT_THAT(quantize_llm(again, {}).error().message, HasSubstr("already"));

  set_interrupted(true);
  QuantizeOptions stopped = good;
  stopped.output_dir = dir_ / "stopped";
  const Status status = quantize_llm(stopped, {});
  set_interrupted(false);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  EXPECT_FALSE(fs::exists(dir_ / "stopped"));
}

class CountingProgress : public ProgressSink {
 public:
  void begin(std::string_view, std::int64_t total, std::string_view) override { total_ = total; }
  void advance(std::int64_t done) override {
    EXPECT_GT(done, last_);
    last_ = done;
  }
  void end() override { ended_ = true; }
  std::int64_t total_ = 0, last_ = 0;
  bool ended_ = false;
};

TEST_F(QuantizeTest, TellsHowFarItIsAndWhatItGot) {
  CountingProgress progress;
  Reporter reporter;
  std::string said;
  reporter.log = [&](LogLevel, std::string_view line) { said += line; };
  reporter.progress = &progress;
  QuantizeOptions options = options_for("qwen3", "out");
  test::write_bytes(dir_ / "short.txt", std::string(100, 'a'));
  options.calibration.dataset = (dir_ / "short.txt").string();
  quantize_llm(options, reporter).value();
  EXPECT_EQ(progress.total_, 2);
  EXPECT_EQ(progress.last_, 2);
  EXPECT_TRUE(progress.ended_);
  EXPECT_THAT(said, HasSubstr("2 samples of at most 96 tokens (6 asked), 100 tokens"));
}

}  // namespace
}  // namespace kv8::quant
