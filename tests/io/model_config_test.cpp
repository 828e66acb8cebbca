#include "io/model_config.h"

#include <gmock/gmock.h>

#include "base/json.h"
#include "io/io_testing.h"

namespace kv8::io {
namespace {

using ::testing::ElementsAre;

Json llama_json() {
  return Json::parse(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "vocab_size": 1000, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2})");
}

Result<ModelConfig> parse(const Json& json) { return parse_model_config(json.dump(), "c.json"); }

Result<ModelConfig> with(std::string_view patch) {
  Json json = llama_json();
  json.merge_patch(Json::parse(patch));  // a null removes the field
  return parse(json);
}

TEST(ModelConfig, ReadsLlama) {
  const auto config = parse(llama_json());
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->family, Family::kLlama);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->intermediate_size, 128);
  EXPECT_EQ(config->vocab_size, 1000);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->max_position_embeddings, 2048);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_EQ(config->dtype, DType::kBF16);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->mlp_bias);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->rope.head_dim, 16);
  EXPECT_EQ(config->rope.max_position, 2048);
  EXPECT_EQ(config->rope.scaling.kind, RopeScalingKind::kNone);
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config->raw_json, llama_json().dump());
}

TEST(ModelConfig, Defaults) {
  const auto config = with(R"({"num_key_value_heads": null, "rms_norm_eps": null,
    "rope_theta": null, "torch_dtype": null, "bos_token_id": null, "eos_token_id": null})");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->rms_norm_eps, 1e-6f);
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_EQ(config->dtype, DType::kF16);
  EXPECT_EQ(config->bos_token_id, -1);
  EXPECT_TRUE(config->eos_token_ids.empty());
}

TEST(ModelConfig, Families) {
  EXPECT_EQ(with(R"({"model_type": "mistral", "sliding_window": null})")->family, Family::kMistral);
  const auto qwen2 = with(R"({"model_type": "qwen2", "tie_word_embeddings": true})");
  EXPECT_EQ(qwen2->family, Family::kQwen2);
  EXPECT_TRUE(qwen2->attention_bias);
  EXPECT_FALSE(qwen2->attention_output_bias);
  EXPECT_TRUE(qwen2->tie_word_embeddings);
  const auto qwen3 = with(R"({"model_type": "qwen3", "head_dim": 32})");
  EXPECT_EQ(qwen3->family, Family::kQwen3);
  EXPECT_EQ(qwen3->head_dim, 32);
  EXPECT_EQ(qwen3->rope.head_dim, 32);
  EXPECT_FALSE(qwen3->attention_bias);
  EXPECT_EQ(with(R"({"model_type": "qwen3"})")->head_dim, 128);
  const auto biased = with(R"({"attention_bias": true, "mlp_bias": true})");
  EXPECT_TRUE(biased->attention_bias);
  EXPECT_TRUE(biased->attention_output_bias);
  EXPECT_TRUE(biased->mlp_bias);
}

TEST(ModelConfig, RefusesOtherModels) {
  for (const char* type : {"qwen2_5_vl", "mixtral", "gemma2", "qwen3_moe", "LLAMA", ""}) {
    Json json = llama_json();
    json["model_type"] = type;
    expect_error(parse(json), {"c.json", "model_type", type, "llama, mistral, qwen2, qwen3"});
  }
  expect_error(with(R"({"model_type": null})"), {"model_type", "missing"});
  expect_error(with(R"({"vision_config": {}})"), {"vision_config"});
  expect_error(with(R"({"hidden_act": "gelu"})"), {"hidden_act", "gelu"});
}

TEST(ModelConfig, Dtypes) {
  EXPECT_EQ(with(R"({"torch_dtype": "float16"})")->dtype, DType::kF16);
  EXPECT_EQ(with(R"({"torch_dtype": "torch.float32"})")->dtype, DType::kF32);
  EXPECT_EQ(with(R"({"torch_dtype": null, "dtype": "bfloat16"})")->dtype, DType::kBF16);
  expect_error(with(R"({"torch_dtype": "float8_e4m3fn"})"), {"torch_dtype", "float8_e4m3fn"});
}

TEST(ModelConfig, EosIds) {
  EXPECT_THAT(with(R"({"eos_token_id": [5, 7, 5]})")->eos_token_ids, ElementsAre(5, 7));
  expect_error(with(R"({"eos_token_id": 1000})"), {"eos_token_id", "1000", "999"});
  expect_error(with(R"({"eos_token_id": [1, "x"]})"), {"eos_token_id", "x"});
  expect_error(with(R"({"bos_token_id": -2})"), {"bos_token_id", "-2"});
  EXPECT_EQ(with(R"({"bos_token_id": -1})")->bos_token_id, -1);
}

TEST(ModelConfig, MergesGenerationConfig) {
  TempDir dir;
  write_raw(dir / "config.json", llama_json().dump());
  EXPECT_THAT(read_model_config(dir.path())->eos_token_ids, ElementsAre(2));
  write_raw(dir / "generation_config.json", R"({"eos_token_id": [9, 2]})");
  EXPECT_THAT(read_model_config(dir.path())->eos_token_ids, ElementsAre(2, 9));
  write_raw(dir / "generation_config.json", R"({"eos_token_id": )");
  expect_error(read_model_config(dir.path()), {"generation_config.json", "line 1"});
  write_raw(dir / "generation_config.json", R"({"eos_token_id": 5000})");
  expect_error(read_model_config(dir.path()), {"generation_config.json", "5000"});
  TempDir empty;
  expect_error(read_model_config(empty.path()), {"config.json", "cannot be opened"});
}

TEST(ModelConfig, NamesBadFields) {
  for (const char* field : {"hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers",
                            "num_attention_heads", "max_position_embeddings"}) {
    Json json = llama_json();
    json.erase(field);
    expect_error(parse(json), {"c.json", field, "missing"});
    for (const char* bad : {"0", "-4", "1e15", "\"64\"", "4.5", "[64]", "99999999999"}) {
      json[field] = Json::parse(bad);
      expect_error(parse(json), {"c.json", field});
    }
  }
  expect_error(with(R"({"num_key_value_heads": 3})"), {"num_key_value_heads", "3"});
  expect_error(with(R"({"num_key_value_heads": 8})"), {"num_key_value_heads", "8"});
  expect_error(with(R"({"hidden_size": 66})"), {"head_dim", "66"});
  expect_error(with(R"({"head_dim": 7})"), {"head_dim", "7"});
  expect_error(with(R"({"head_dim": 4096})"), {"head_dim", "4096"});
  expect_error(with(R"({"hidden_size": 1048576, "num_attention_heads": 1,
                        "num_key_value_heads": 1})"),
               {"head_dim", "1048576"});
  expect_error(with(R"({"rms_norm_eps": -1})"), {"rms_norm_eps"});
  expect_error(with(R"({"rope_theta": 0})"), {"rope_theta"});
  expect_error(with(R"({"tie_word_embeddings": "yes"})"), {"tie_word_embeddings"});
  expect_error(parse_model_config("[1]", "c.json"), {"c.json", "not a JSON object"});
  expect_error(parse_model_config("{\n \"a\": }", "c.json"), {"line 2"});
  expect_error(parse_model_config(std::string(2 << 20, ' '), "c.json"), {"c.json", "bytes"});
}

TEST(ModelConfig, SlidingWindow) {
  const auto mistral = [](std::string_view extra) {
    Json json = llama_json();
    json["model_type"] = "mistral";
    json.merge_patch(Json::parse(extra));
    return parse(json);
  };
  expect_error(mistral(R"({"sliding_window": 1024})"), {"sliding_window", "1024", "2048"});
  EXPECT_TRUE(mistral(R"({"sliding_window": 2048})").ok());
  EXPECT_TRUE(mistral(R"({})").ok());
  const auto qwen = [](std::string_view extra) {
    Json json = llama_json();
    json["model_type"] = "qwen2";
    json["sliding_window"] = 1024;
    json.merge_patch(Json::parse(extra));
    return parse(json);
  };
  EXPECT_TRUE(qwen(R"({"use_sliding_window": false})").ok());
  EXPECT_TRUE(qwen("{}").ok());
  expect_error(qwen(R"({"use_sliding_window": true, "max_window_layers": 1})"), {"sliding_window"});
  EXPECT_TRUE(qwen(R"({"use_sliding_window": true, "max_window_layers": 2})").ok());
  EXPECT_TRUE(
      qwen(R"({"use_sliding_window": true, "layer_types": ["full_attention", "full_attention"]})")
          .ok());
  expect_error(qwen(R"({"layer_types": ["full_attention", "sliding_attention"]})"),
               {"sliding_window"});
  expect_error(qwen(R"({"layer_types": ["linear_attention"]})"), {"layer_types", "linear"});
}

TEST(RopeConfig, LegacyAndNewSpellings) {
  const auto llama3 = with(R"({"rope_scaling": {"rope_type": "llama3", "factor": 32.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})");
  ASSERT_TRUE(llama3.ok()) << llama3.error().message;
  EXPECT_EQ(llama3->rope.scaling.kind, RopeScalingKind::kLlama3);
  EXPECT_EQ(llama3->rope.scaling.factor, 32.0);
  EXPECT_EQ(llama3->rope.scaling.low_freq_factor, 1.0);
  EXPECT_EQ(llama3->rope.scaling.high_freq_factor, 4.0);
  EXPECT_EQ(llama3->rope.scaling.original_max_position, 8192);

  const auto linear = with(R"({"rope_scaling": {"type": "linear", "factor": 2}})");
  EXPECT_EQ(linear->rope.scaling.kind, RopeScalingKind::kLinear);
  EXPECT_EQ(linear->rope.scaling.factor, 2.0);
  const auto dynamic = with(R"({"rope_scaling": {"type": "dynamic", "factor": 2.5}})");
  EXPECT_EQ(dynamic->rope.scaling.kind, RopeScalingKind::kDynamic);
  EXPECT_EQ(dynamic->rope.scaling.original_max_position, 0);

  const auto yarn = with(R"({"rope_theta": null, "rope_parameters": {"rope_type": "yarn",
    "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 16,
    "beta_slow": 2, "attention_factor": 1.5, "mscale": 0.7, "mscale_all_dim": 0.5,
    "truncate": false}})");
  ASSERT_TRUE(yarn.ok()) << yarn.error().message;
  const RopeScaling& scaling = yarn->rope.scaling;
  EXPECT_EQ(yarn->rope.theta, 1e6);
  EXPECT_EQ(scaling.kind, RopeScalingKind::kYarn);
  EXPECT_EQ(scaling.original_max_position, 512);
  EXPECT_EQ(scaling.beta_fast, 16.0);
  EXPECT_EQ(scaling.beta_slow, 2.0);
  EXPECT_EQ(scaling.attention_factor, 1.5);
  EXPECT_EQ(scaling.mscale, 0.7);
  EXPECT_EQ(scaling.mscale_all_dim, 0.5);
  EXPECT_FALSE(scaling.truncate);

  const auto plain = with(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}})");
  EXPECT_EQ(plain->rope.theta, 7e4);
  EXPECT_EQ(plain->rope.scaling.kind, RopeScalingKind::kNone);
}

TEST(RopeConfig, RefusesWhatCannotBeMeant) {
  const auto scaling = [](std::string_view fields) {
    return with(fmt::format(R"({{"rope_scaling": {{{}}}}})", fields));
  };
  expect_error(scaling(R"("type": "longrope", "factor": 2)"), {"rope_scaling", "longrope", "yarn"});
  expect_error(scaling(R"("type": "linear")"), {"rope_scaling", "factor", "missing"});
  expect_error(scaling(R"("type": "linear", "factor": 0.5)"), {"factor", "0.5"});
  expect_error(scaling(R"("type": "linear", "factor": 1e300)"), {"factor"});
  expect_error(scaling(R"("rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                          "high_freq_factor": 4)"),
               {"original_max_position_embeddings"});
  expect_error(scaling(R"("rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                          "high_freq_factor": 4, "original_max_position_embeddings": 9)"),
               {"high_freq_factor"});
  expect_error(scaling(R"("rope_type": "yarn", "factor": 8, "beta_fast": 1, "beta_slow": 2)"),
               {"beta_fast"});
  expect_error(scaling(R"("type": "default", "mrope_section": [16, 24, 24])"), {"mrope_section"});
  expect_error(with(R"({"rope_scaling": 4})"), {"rope_scaling", "not an object"});
  expect_error(with(R"({"partial_rotary_factor": 0.5})"), {"partial_rotary_factor"});
  expect_error(with(R"({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})"),
               {"rope_parameters", "differs by layer"});
}

}  // namespace
}  // namespace kv8::io
