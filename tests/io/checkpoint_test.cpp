#include "io/checkpoint.h"

#include <gmock/gmock.h>

#include <limits>

#include "base/json.h"
#include "io/io_testing.h"

namespace kv8::io {
namespace {

using ::testing::ElementsAre;

constexpr const char* kLayer0 = "model.layers.0.self_attn.";
constexpr const char* kLayer1 = "model.layers.1.self_attn.";

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = Json::parse(R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
      "vocab_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_key_value_heads": 2, "max_position_embeddings": 64})");
    for (const std::string layer : {kLayer0, kLayer1}) {
      tensors_.push_back(float_tensor(layer + "k_proj.k_scale", {}, {0.5f}));
      tensors_.push_back(float_tensor(layer + "v_proj.v_scale", {}, {0.25f}));
    }
    tensors_.push_back(float_tensor("model.norm.weight", {8}, std::vector<float>(8, 1.0f)));
    declare_fp8();
  }
  void declare_fp8() {
    hf_quant_config_ = R"({"producer": {"name": "modelopt", "version": "0"},
      "quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}})";
  }
  Result<Checkpoint> open() {
    write_raw(dir_ / "config.json", config_.dump());
    if (!hf_quant_config_.empty()) write_raw(dir_ / "hf_quant_config.json", hf_quant_config_);
    EXPECT_TRUE(write_safetensors(dir_ / "model.safetensors", tensors_).ok());
    return Checkpoint::open(dir_.path());
  }
  Result<std::vector<LayerKvScales>> scales() {
    const auto checkpoint = open();
    if (!checkpoint.ok()) return checkpoint.error();
    return checkpoint->kv_scales();
  }
  void replace(NamedTensor tensor) {
    remove(tensor.name);
    tensors_.push_back(std::move(tensor));
  }
  void remove(const std::string& name) {
    std::erase_if(tensors_, [&](const NamedTensor& entry) { return entry.name == name; });
  }

  TempDir dir_;
  Json config_;
  std::string hf_quant_config_;
  std::vector<NamedTensor> tensors_;
};

TEST_F(CheckpointTest, GivesTensorsByNameAndShape) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->config().num_layers, 2);
  EXPECT_EQ(checkpoint->tensor_names().size(), 5u);
  EXPECT_TRUE(checkpoint->has("model.norm.weight"));
  EXPECT_TRUE(checkpoint->weight("model.norm.weight", {8}).ok());
  expect_error(checkpoint->weight("model.norm.weight", {9}), {"model.norm.weight", "[8]", "[9]"});
  expect_error(checkpoint->weight("lm_head.weight", {9}), {"lm_head.weight", "missing"});
}

TEST_F(CheckpointTest, RefusesWeightsOfOtherTypes) {
  const std::vector<std::byte> bytes(8);
  tensors_.push_back({"codes", TensorView{DType::kU8, {8}, bytes, nullptr}});
  expect_error(open()->weight("codes", {8}), {"codes", "U8"});
}

TEST_F(CheckpointTest, RefusesMissingFiles) {
  expect_error(Checkpoint::open(dir_ / "nowhere"), {"nowhere", "not a folder"});
  write_raw(dir_ / "config.json", config_.dump());
  expect_error(Checkpoint::open(dir_.path()), {"neither model.safetensors nor"});
  std::filesystem::remove(dir_ / "config.json");
  expect_error(Checkpoint::open(dir_.path()), {"config.json"});
}

class ShardedTest : public CheckpointTest {
 protected:
  Result<Checkpoint> open_index(std::string_view weight_map) {
    write_raw(dir_ / "config.json", config_.dump());
    write_raw(dir_ / "model.safetensors.index.json",
              fmt::format(R"({{"weight_map": {{{}}}}})", weight_map));
    return Checkpoint::open(dir_.path());
  }
  void write_shard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<NamedTensor> tensors;
    for (const std::string& name : names) tensors.push_back(float_tensor(name, {1}, {1.0f}));
    ASSERT_TRUE(write_safetensors(dir_ / file, tensors).ok());
  }
};

TEST_F(ShardedTest, ReadsWhatTheWriterWrote) {
  write_raw(dir_ / "config.json", config_.dump());
  ASSERT_TRUE(write_sharded_safetensors(dir_.path(), tensors_, 8).ok());
  const auto checkpoint = Checkpoint::open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->tensor_names().size(), tensors_.size());
  for (const NamedTensor& entry : tensors_) {
    EXPECT_TRUE(std::ranges::equal(checkpoint->tensor(entry.name)->bytes, entry.tensor.bytes));
  }
}

TEST_F(ShardedTest, RefusesIndexesThatLie) {
  write_shard("1.safetensors", {"a", "b"});
  write_shard("2.safetensors", {"c"});
  EXPECT_TRUE(
      open_index(R"("a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors")").ok());
  expect_error(open_index(R"("a": "2.safetensors", "c": "2.safetensors")"),
               {"2.safetensors", "no tensor a"});
  expect_error(open_index(R"("a": "1.safetensors", "x": "3.safetensors")"), {"3.safetensors"});
  expect_error(open_index(""), {"weight_map"});
  expect_error(open_index(R"("a": 7)"), {"weight_map", "tensor a", "7"});
  expect_error(open_index(R"("a": "1.safetensors", "a": "2.safetensors")"), {"\"a\" twice"});
  write_shard("2.safetensors", {"c", "a"});
  expect_error(open_index(R"("a": "1.safetensors", "c": "2.safetensors")"),
               {"2.safetensors", "tensor a is in 1.safetensors too"});
}

TEST_F(ShardedTest, StaysInsideTheFolder) {
  write_shard("1.safetensors", {"a"});
  for (const char* name : {"../1.safetensors", "/etc/passwd", "..", ".", "", "x/1.safetensors",
                           "..\\\\1.safetensors", "1.safetensors\\u0000"}) {
    expect_error(open_index(fmt::format(R"("a": "{}")", name)), {"weight_map", "file name"});
  }
}

TEST_F(ShardedTest, RefusesTwoAnswers) {
  write_shard("1.safetensors", {"a"});
  write_shard("model.safetensors", {"a"});
  expect_error(open_index(R"("a": "1.safetensors")"), {"both", "out of date"});
}

TEST_F(CheckpointTest, FindsFp8KvInEverySpelling) {
  EXPECT_TRUE(open()->quantization().kv_cache_fp8);
  EXPECT_EQ(open()->quantization().kv_cache_algo, "FP8");
  // hf_quant_config.json has the first word.
  config_["quantization_config"] = Json::parse(R"({"quant_method": "gptq"})");
  EXPECT_TRUE(open().ok());
  hf_quant_config_.clear();
  std::filesystem::remove(dir_ / "hf_quant_config.json");
  for (const char* scheme :
       {R"({"dynamic": false, "num_bits": 8, "type": "float"})", "true", R"("fp8")", "1"}) {
    for (const char* method : {"modelopt", "compressed-tensors"}) {
      config_["quantization_config"] = {{"quant_method", method},
                                        {"kv_cache_scheme", Json::parse(scheme)}};
      EXPECT_TRUE(open()->quantization().kv_cache_fp8) << scheme;
    }
  }
  for (const char* scheme : {"null", "false", "{}", "0", R"("")"}) {
    config_["quantization_config"] = {{"quant_method", "modelopt"},
                                      {"kv_cache_scheme", Json::parse(scheme)}};
    EXPECT_FALSE(open()->quantization().kv_cache_fp8) << scheme;
  }
  config_.erase("quantization_config");
  EXPECT_FALSE(open()->quantization().kv_cache_fp8);
  EXPECT_EQ(open()->quantization().kv_cache_algo, "");
}

TEST_F(CheckpointTest, RefusesFormatsThatItCannotUse) {
  const auto open_with = [&](std::string_view quantization) {
    hf_quant_config_ = fmt::format(R"({{"quantization": {}}})", quantization);
    return open();
  };
  expect_error(open_with(R"({"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"})"),
               {"hf_quant_config.json", "weight quantization \"NVFP4\""});
  expect_error(open_with(R"({"kv_cache_quant_algo": "FP8_KV8"})"), {"FP8_KV8", "not supported"});
  expect_error(open_with(R"({"kv_cache_quant_algo": "INT8"})"), {"INT8", "not supported"});
  expect_error(open_with(R"({"kv_cache_quant_algo": 8})"), {"kv_cache_quant_algo"});
  expect_error(open_with("[]"), {"`quantization`"});
  std::filesystem::remove(dir_ / "hf_quant_config.json");
  hf_quant_config_.clear();
  for (const auto& [json, name] : std::vector<std::pair<const char*, std::string>>{
           {R"({"quant_method": "modelopt", "quant_algo": "FP8"})", "FP8"},
           {R"({"quant_method": "awq", "bits": 4})", "awq"},
           {R"({"quant_method": "compressed-tensors", "format": "float-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 8}}}})",
            "float-quantized"}}) {
    config_["quantization_config"] = Json::parse(json);
    expect_error(open(), {"quantization_config", "weight quantization \"" + name + "\""});
  }
  config_["quantization_config"] = 5;
  expect_error(open(), {"quantization_config", "not an object"});
}

TEST_F(CheckpointTest, ReadsScales) {
  replace(float_tensor(std::string(kLayer0) + "k_proj.k_scale", {2}, {0.125f, 1.25f}));
  replace(float_tensor(std::string(kLayer1) + "v_proj.v_scale", {1}, {3.0f}));
  tensors_.push_back(float_tensor(std::string(kLayer1) + "q_proj.q_scale", {1}, {0.75f}));
  const auto layers = scales();
  ASSERT_TRUE(layers.ok()) << layers.error().message;
  ASSERT_EQ(layers->size(), 2u);
  EXPECT_THAT((*layers)[0].k, ElementsAre(0.125f, 1.25f));
  EXPECT_THAT((*layers)[0].v, ElementsAre(0.25f));
  EXPECT_THAT((*layers)[0].q, ElementsAre());
  EXPECT_THAT((*layers)[1].k, ElementsAre(0.5f));
  EXPECT_THAT((*layers)[1].v, ElementsAre(3.0f));
  EXPECT_THAT((*layers)[1].q, ElementsAre(0.75f));
}

TEST_F(CheckpointTest, ReadsCompressedTensorsScales) {
  tensors_.clear();
  for (const std::string layer : {kLayer0, kLayer1}) {
    NamedTensor scale = float_tensor(layer + "k_scale", {1}, {0.5f});
    scale.tensor = convert(scale.tensor, DType::kBF16).value();
    tensors_.push_back(std::move(scale));
    tensors_.push_back(float_tensor(layer + "v_scale", {1}, {0.25f}));
  }
  const auto layers = scales();
  ASSERT_TRUE(layers.ok()) << layers.error().message;
  EXPECT_THAT((*layers)[1].k, ElementsAre(0.5f));
  tensors_.push_back(float_tensor(std::string(kLayer0) + "k_proj.k_scale", {}, {0.5f}));
  expect_error(scales(), {"both", "k_proj.k_scale", "self_attn.k_scale"});
}

TEST_F(CheckpointTest, MissingScalesAreErrors) {
  for (const std::string& name :
       {std::string(kLayer1) + "k_proj.k_scale", std::string(kLayer0) + "v_proj.v_scale"}) {
    const auto before = tensors_;
    remove(name);
    expect_error(scales(), {name, "missing", "hf_quant_config.json"});
    tensors_ = before;
  }
}

TEST_F(CheckpointTest, BadScalesAreErrors) {
  const float kInf = std::numeric_limits<float>::infinity();
  const float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const std::string& name :
       {std::string(kLayer1) + "k_proj.k_scale", std::string(kLayer0) + "v_proj.v_scale",
        std::string(kLayer1) + "q_proj.q_scale"}) {
    const auto before = tensors_;
    for (const float bad : {0.0f, -0.0f, -1.0f, kInf, -kInf, kNan}) {
      replace(float_tensor(name, {}, {bad}));
      expect_error(scales(), {name, "positive finite"});
    }
    replace(float_tensor(name, {3}, {1, 1, 1}));
    expect_error(scales(), {name, "[3]", "[1]"});
    replace(float_tensor(name, {1, 1}, {1}));
    expect_error(scales(), {name, "[1, 1]"});
    replace(float_tensor(name, {0}, {}));
    expect_error(scales(), {name, "[0]"});
    const std::vector<std::byte> code(1, std::byte{0x38});
    replace({name, TensorView{DType::kF8E4M3, {1}, code, nullptr}});
    expect_error(scales(), {name, "F8_E4M3"});
    tensors_ = before;
  }
  // One bad head among good ones; Q has no per-head form.
  replace(float_tensor(std::string(kLayer0) + "k_proj.k_scale", {2}, {1.0f, kNan}));
  expect_error(scales(), {"k_proj.k_scale", "nan"});
  replace(float_tensor(std::string(kLayer0) + "k_proj.k_scale", {2}, {1.0f, 2.0f}));
  replace(float_tensor(std::string(kLayer0) + "q_proj.q_scale", {2}, {1.0f, 2.0f}));
  expect_error(scales(), {"q_proj.q_scale", "[2]"});
}

TEST_F(CheckpointTest, RefusesTransformsUnderAPlainName) {
  for (const char* name : {"k_offset", "v_offset", "k_feedback"}) {
    tensors_.push_back(float_tensor(std::string(kLayer1) + name, {1}, {0.0f}));
    expect_error(scales(), {name, "FP8_KV8"});
    tensors_.pop_back();
  }
}

TEST_F(CheckpointTest, AsksForScalesOnlyOfFp8) {
  hf_quant_config_.clear();
  EXPECT_THROW((void)open()->kv_scales(), ContractError);
}

}  // namespace
}  // namespace kv8::io
