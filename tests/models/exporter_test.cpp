#include "models/exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "graph/onnx.h"
#include "models/golden_checkpoint.h"
#include "support/tiny_checkpoint.h"

namespace kv8::models {
namespace {

namespace fs = std::filesystem;
using test::read_bytes;
using test::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> files_in(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    names.push_back(fs::relative(entry.path(), dir).string());
  }
  std::ranges::sort(names);
  return names;
}

Json config_of(const fs::path& llm) { return read_json_file(llm / "config.json").value(); }

/// A checkpoint with tokenizer and chat template, `source`, and where it is exported to, `out`.
class Exporter : public ::testing::Test {
 protected:
  void make(const std::string& model, bool fp8 = false, const Fp8Options& options = {}) {
    test::make_tiny_checkpoint(model, source());
    if (fp8) write_fp8_checkpoint(model, source(), options);
  }
  Status run(const ExportOptions& options = {}, const Reporter& reporter = {}) const {
    return export_model(source(), out(), options, reporter);
  }
  void expect_refused(const std::vector<std::string>& parts) const {
    const Status status = run();
    ASSERT_FALSE(status.ok());
    for (const std::string& part : parts) EXPECT_THAT(status.error().message, HasSubstr(part));
    EXPECT_THAT(files_in(dir_.path()), ::testing::Each(::testing::StartsWith("source")));
  }
  void edit_config(const std::function<void(Json&)>& edit) {
    Json config = read_json_file(source() / "config.json").value();
    edit(config);
    ASSERT_TRUE(write_json_file(source() / "config.json", config).ok());
  }
  fs::path source() const { return dir_.path() / "source"; }
  fs::path out() const { return dir_.path() / "out"; }
  fs::path llm() const { return out() / "llm"; }

 private:
  TempDir dir_;
};

TEST_F(Exporter, WritesTheFilesOfTheContract) {
  make("llama3", true);
  const Status status = run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_THAT(files_in(out()),
              ElementsAre("llm", "llm/config.json", "llm/embedding.safetensors", "llm/model.onnx",
                          "llm/model.onnx.data", "llm/processed_chat_template.json",
                          "llm/tokenizer.json", "llm/tokenizer_config.json"));
  EXPECT_EQ(read_bytes(llm() / "tokenizer.json"), read_bytes(source() / "tokenizer.json"));
  EXPECT_TRUE(graph::read_onnx(llm() / "model.onnx").ok());
}

TEST_F(Exporter, ConfigHasTheModelsFieldsAndOurs) {
  make("llama3", true);
  ASSERT_TRUE(run().ok());
  const Json config = config_of(llm());
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["hidden_size"], 96);
  EXPECT_EQ(config["kv_cache_dtype"], "fp8");
  EXPECT_EQ(config["engine_role"], "llm");
  EXPECT_EQ(config["spec_decode_type"], "none");
  EXPECT_EQ(config["rope_theta"], 500000.0);
  EXPECT_EQ(config["rope_scaling"]["rope_type"], "llama3");
  EXPECT_TRUE(config["eos_token_id"].is_array());
  EXPECT_THAT(config["eos_token_id"].get<std::vector<int>>(), ::testing::Contains(2));
}

TEST_F(Exporter, ConfigOfNewerTransformersGetsTheOlderFieldsToo) {
  make("mistral");
  edit_config([](Json& config) {
    config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 12345.0}};
  });
  ASSERT_TRUE(run().ok());
  const Json config = config_of(llm());
  EXPECT_EQ(config["kv_cache_dtype"], "fp16");
  EXPECT_EQ(config["rope_theta"], 12345.0);
  EXPECT_EQ(config["rope_scaling"], Json({{"rope_type", "linear"}, {"factor", 2.0}}));
  EXPECT_EQ(config["eos_token_id"], Json::array({2}));
}

TEST_F(Exporter, DefaultRopeScalingIsNull) {
  make("mistral");
  ASSERT_TRUE(run().ok());
  EXPECT_TRUE(config_of(llm())["rope_scaling"].is_null());
  EXPECT_EQ(config_of(llm())["rope_theta"], 1000000.0);
}

TEST_F(Exporter, EmbeddingIsTheTableInFp16) {
  make("mistral");  // BF16
  ASSERT_TRUE(run().ok());
  const auto file = io::SafetensorsFile::open(llm() / "embedding.safetensors").value();
  const TensorView table = file.tensor("embedding").value();
  EXPECT_EQ(table.dtype, DType::kF16);
  EXPECT_EQ(table.shape, (Shape{272, 64}));
  const auto expected =
      to_float(open_golden("mistral").tensor("model.embed_tokens.weight").value());
  const auto values = to_float(table).value();
  for (std::size_t i = 0; i < values.size(); ++i) {
    // Half a unit in FP16's last place, or of its smallest number.
    ASSERT_NEAR(values[i], (*expected)[i], std::max(std::abs((*expected)[i]) / 2048, 0x1p-25f))
        << i;
  }
}

TEST_F(Exporter, AnEmbeddingThatFp16CannotHoldIsRefused) {
  make("mistral");
  const io::Checkpoint golden = open_golden("mistral");
  std::vector<io::NamedTensor> tensors;
  for (const std::string& name : golden.tensor_names()) {
    TensorView tensor = golden.tensor(name).value();
    if (name == "model.embed_tokens.weight") {
      std::vector<float> values = to_float(tensor).value();
      values[77] = 1e6f;
      tensor = convert(tensor_from_floats(values, tensor.shape), DType::kBF16).value();
    }
    tensors.push_back({name, tensor});
  }
  ASSERT_TRUE(io::write_safetensors(source() / "model.safetensors", tensors).ok());
  expect_refused({"model.embed_tokens.weight", "FP16"});
}

TEST_F(Exporter, AMissingScaleIsNamedAndNothingIsLeft) {
  const std::string name = "model.layers.1.self_attn.k_proj.k_scale";
  make("llama3", true, {.without = {name}});
  expect_refused({name});
}

TEST_F(Exporter, AMissingWeightIsNamedAndNothingIsLeft) {
  make("llama3", true, {.without = {"lm_head.weight"}});
  expect_refused({"lm_head.weight"});
}

TEST_F(Exporter, AMissingTokenizerIsRefused) {
  make("llama3");
  fs::remove(source() / "tokenizer.json");
  expect_refused({"tokenizer.json"});
}

TEST_F(Exporter, AnEagleDraftIsRefused) {
  make("llama3");
  edit_config([](Json& config) { config["draft_vocab_size"] = 32000; });
  expect_refused({"draft_vocab_size", "EAGLE"});
}

TEST_F(Exporter, AnUnknownTemplateIsRefusedUnlessAProcessedOneIsThere) {
  make("llama3");
  Json tokenizer = read_json_file(source() / "tokenizer_config.json").value();
  tokenizer["chat_template"] = "{% for m in messages %}{{ loop.index * 7 }}{% endfor %}";
  ASSERT_TRUE(write_json_file(source() / "tokenizer_config.json", tokenizer).ok());
  expect_refused({"template"});

  const Json affixes = {{"prefix", "<"}, {"suffix", ">"}};
  const Json by_hand = {{"model_path", ""},
                        {"roles", {{"system", affixes}, {"user", affixes}, {"assistant", affixes}}},
                        {"content_types", Json::object()},
                        {"generation_prompt", "<"},
                        {"default_system_prompt", ""}};
  ASSERT_TRUE(write_json_file(source() / "processed_chat_template.json", by_hand).ok());
  const Status status = run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(read_json_file(llm() / "processed_chat_template.json").value(), by_hand);
}

TEST_F(Exporter, AnInterruptLeavesNothing) {
  make("llama3");
  set_interrupted(true);
  const Status status = run();
  set_interrupted(false);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Exporter, AFailureLeavesAnEarlierExportAsItWas) {
  make("llama3", true);
  ASSERT_TRUE(run().ok());
  const auto before = files_in(out());
  const std::string model = read_bytes(llm() / "model.onnx");
  set_interrupted(true);
  EXPECT_FALSE(run({.portable = true}).ok());
  set_interrupted(false);
  EXPECT_EQ(files_in(out()), before);
  EXPECT_EQ(read_bytes(llm() / "model.onnx"), model);
  ASSERT_TRUE(run({.portable = true}).ok());
  EXPECT_EQ(files_in(out()), before);
  EXPECT_NE(read_bytes(llm() / "model.onnx"), model);
}

TEST_F(Exporter, SaysWhatBecomesOfTheCache) {
  std::vector<std::string> lines;
  const Reporter reporter{[&](LogLevel, std::string_view line) { lines.emplace_back(line); }};
  make("llama3", true, {.q_scale = false});
  ASSERT_TRUE(run({}, reporter).ok());
  EXPECT_THAT(lines, ElementsAre(::testing::AllOf(HasSubstr("FP8"), HasSubstr("no q_scale"))));
}

}  // namespace
}  // namespace kv8::models
