// The import of the real model against an independent one (tools/golden/import_reference.py).
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/io_testing.h"

namespace kv8::io {
namespace {

namespace fs = std::filesystem;
using MapJson = nlohmann::json;

constexpr const char* kFileName = "SmolLM2-135M-Instruct.Q4_1.gguf";

fs::path model_file() {
  if (const char* path = std::getenv("KV8_SMOLLM2_GGUF")) return path;
  return fs::path(KV8_SOURCE_DIR) / "build" / "models" / kFileName;
}

MapJson read_map(const fs::path& path) { return MapJson::parse(read_raw(path)); }

class SmolLM2Import : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!fs::exists(model_file())) return;
    dir_ = new TempDir;
    const Status status = import_gguf(model_file(), *dir_ / "model", Reporter{});
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  void SetUp() override {
    if (dir_ == nullptr) {
      GTEST_SKIP() << model_file() << " is not there (make demo fetches it; KV8_SMOLLM2_GGUF names "
                   << "another place)";
    }
    golden_ = read_map(fs::path(KV8_TEST_DATA) / "golden" / "smollm2_import.json");
  }
  fs::path output(std::string_view name) const { return *dir_ / "model" / name; }

  static TempDir* dir_;
  MapJson golden_;
};
TempDir* SmolLM2Import::dir_ = nullptr;

TEST_F(SmolLM2Import, EveryTensorHasTheReferencesBytes) {
  const auto file = SafetensorsFile::open(output("model.safetensors"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  const MapJson& expected = golden_["tensors"];
  ASSERT_EQ(file->tensors().size(), 272u);
  ASSERT_EQ(file->tensors().size(), expected.size());
  for (const auto& [name, view] : file->tensors()) {
    ASSERT_TRUE(expected.contains(name)) << name;
    EXPECT_EQ(dtype_name(view.dtype), expected[name]["dtype"].get<std::string>());
    EXPECT_EQ(MapJson(view.shape), expected[name]["shape"]) << name;
    EXPECT_EQ(sha256_hex(view.bytes), expected[name]["sha256"].get<std::string>()) << name;
  }
}

TEST_F(SmolLM2Import, ConfigurationsAreTheReferences) {
  EXPECT_EQ(read_map(output("config.json")), golden_["config"]);
  EXPECT_EQ(read_map(output("generation_config.json")), golden_["generation_config"]);
  EXPECT_EQ(read_map(output("tokenizer_config.json")), golden_["tokenizer_config"]);
}

TEST_F(SmolLM2Import, TokenizerIsTheReferences) {
  const MapJson tokenizer = read_map(output("tokenizer.json"));
  EXPECT_EQ(tokenizer["pre_tokenizer"], golden_["tokenizer_pre_tokenizer"]);
  EXPECT_EQ(tokenizer["decoder"], golden_["tokenizer_decoder"]);
  EXPECT_EQ(tokenizer["added_tokens"], golden_["tokenizer_added_tokens"]);
  EXPECT_TRUE(tokenizer["normalizer"].is_null());
  EXPECT_TRUE(tokenizer["post_processor"].is_null());
  const MapJson& model = tokenizer["model"];
  EXPECT_EQ(model["type"], "BPE");
  EXPECT_EQ(model["byte_fallback"], false);
  std::vector<std::string> tokens(model["vocab"].size());
  for (const auto& [token, id] : model["vocab"].items()) tokens.at(id.get<std::size_t>()) = token;
  EXPECT_EQ(sha256_hex(fmt::format("{}", fmt::join(tokens, "\n"))),
            golden_["tokenizer_vocab_sha256"].get<std::string>());
  std::vector<std::string> merges;
  for (const MapJson& merge : model["merges"]) {
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  EXPECT_EQ(sha256_hex(fmt::format("{}", fmt::join(merges, "\n"))),
            golden_["tokenizer_merges_sha256"].get<std::string>());
}

TEST_F(SmolLM2Import, IsACheckpoint) {
  const auto checkpoint = Checkpoint::open(output(""));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.num_layers, 30);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.rms_norm_eps, 1e-5f);
  EXPECT_EQ(config.rope.theta, 100000.0);
  EXPECT_FALSE(checkpoint->quantization().kv_cache_fp8);
  EXPECT_TRUE(checkpoint->weight("model.layers.29.self_attn.k_proj.weight", {192, 576}).ok());
}

}  // namespace
}  // namespace kv8::io
