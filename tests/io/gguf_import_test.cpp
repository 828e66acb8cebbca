#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/progress.h"
#include "formats/float_formats.h"
#include "io/checkpoint.h"
#include "io/gguf_testing.h"

namespace kv8::io {
namespace {

namespace fs = std::filesystem;
using MapJson = nlohmann::json;
using ::testing::ElementsAre;

constexpr std::int64_t kHidden = 8, kHeads = 2, kKvHeads = 1, kHeadDim = 4, kFfn = 6;

/// Element [row, col] is row + col / 64: exact in FP16, and says where a row came from.
std::vector<float> numbered(std::int64_t rows, std::int64_t cols) {
  std::vector<float> values;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t col = 0; col < cols; ++col) {
      values.push_back(static_cast<float>(row) + static_cast<float>(col) / 64.0f);
    }
  }
  return values;
}

void add_model(GgufBuilder& b, const std::string& architecture, std::int64_t vocab) {
  const std::string p = architecture + ".";
  b.text("general.architecture", architecture);
  b.u32(p + "block_count", 1).u32(p + "embedding_length", kHidden);
  b.u32(p + "feed_forward_length", kFfn).u32(p + "context_length", 32);
  b.u32(p + "attention.head_count", kHeads).u32(p + "attention.head_count_kv", kKvHeads);
  b.f32(p + "attention.layer_norm_rms_epsilon", 1e-6f).f32(p + "rope.freq_base", 5e5f);
  const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
    b.floats(name, {rows, cols}, numbered(rows, cols));
  };
  const auto vector = [&](const std::string& name, std::int64_t size) {
    b.floats(name, {size}, numbered(size, 1));
  };
  matrix("token_embd.weight", vocab, kHidden);
  vector("output_norm.weight", kHidden);
  vector("blk.0.attn_norm.weight", kHidden);
  vector("blk.0.ffn_norm.weight", kHidden);
  matrix("blk.0.attn_q.weight", kHeads * kHeadDim, kHidden);
  matrix("blk.0.attn_k.weight", kKvHeads * kHeadDim, kHidden);
  matrix("blk.0.attn_v.weight", kKvHeads * kHeadDim, kHidden);
  matrix("blk.0.attn_output.weight", kHidden, kHeads * kHeadDim);
  matrix("blk.0.ffn_gate.weight", kFfn, kHidden);
  matrix("blk.0.ffn_up.weight", kFfn, kHidden);
  matrix("blk.0.ffn_down.weight", kHidden, kFfn);
}

void add_qkv_bias(GgufBuilder& b) {
  b.floats("blk.0.attn_q.bias", {kHeads * kHeadDim}, numbered(kHeads * kHeadDim, 1));
  b.floats("blk.0.attn_k.bias", {kKvHeads * kHeadDim}, numbered(kKvHeads * kHeadDim, 1));
  b.floats("blk.0.attn_v.bias", {kKvHeads * kHeadDim}, numbered(kKvHeads * kHeadDim, 1));
}

/// Six tokens: two control, three letters and "ab"; one of them user-defined.
void add_byte_level(GgufBuilder& b, const std::string& pre) {
  b.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
  b.texts("tokenizer.ggml.tokens", {"<s>", "</s>", "a", "b", "ab", "<tool>"});
  b.i32s("tokenizer.ggml.token_type", {3, 3, 1, 1, 1, 4});
  b.texts("tokenizer.ggml.merges", {"a b"});
  b.u32("tokenizer.ggml.bos_token_id", 0).u32("tokenizer.ggml.eos_token_id", 1);
}

GgufBuilder small_model(const std::string& architecture = "llama",
                        const std::string& pre = "smollm") {
  GgufBuilder b;
  add_model(b, architecture, 6);
  add_byte_level(b, pre);
  return b;
}

class GgufImportTest : public ::testing::Test {
 protected:
  Status import_raw(std::string_view bytes) {
    write_raw(dir_ / "x.gguf", bytes);
    return import_gguf(dir_ / "x.gguf", dir_ / "out", reporter_);
  }
  Status import(const GgufBuilder& builder) { return import_raw(builder.build()); }
  void expect_imported(const GgufBuilder& builder) {
    const Status status = import(builder);
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  /// The import fails, says why, and leaves nothing.
  void expect_refused(const GgufBuilder& builder, const std::vector<std::string>& parts) {
    expect_error(import(builder), parts);
    expect_nothing_left();
  }
  void expect_nothing_left() {
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      EXPECT_EQ(entry.path().filename(), "x.gguf");
    }
  }
  MapJson json(std::string_view name) {
    return MapJson::parse(read_raw(dir_ / "out" / std::string(name)));
  }
  /// Column 0 of a tensor: the numbers of the rows that it was made of.
  std::vector<float> rows(const std::string& name) {
    const auto file = SafetensorsFile::open(dir_ / "out/model.safetensors");
    const TensorView view = file->tensor(name).value();
    EXPECT_EQ(view.dtype, DType::kF16);
    const std::vector<float> values = to_float(view).value();
    const std::size_t cols = view.shape.size() == 2 ? static_cast<std::size_t>(view.shape[1]) : 1;
    std::vector<float> result;
    for (std::size_t i = 0; i < values.size(); i += cols) result.push_back(values[i]);
    return result;
  }

  TempDir dir_;
  std::vector<std::string> log_;
  Reporter reporter_{[this](LogLevel, std::string_view line) { log_.emplace_back(line); }, nullptr};
};

TEST_F(GgufImportTest, UndoesLlamasInterleaving) {
  expect_imported(small_model());
  // GGUF's rows 0, 1, 2, 3 of a head are pairs (x0, x2), (x1, x3) of the two rotary halves.
  EXPECT_THAT(rows("model.layers.0.self_attn.q_proj.weight"), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  EXPECT_THAT(rows("model.layers.0.self_attn.k_proj.weight"), ElementsAre(0, 2, 1, 3));
  EXPECT_THAT(rows("model.layers.0.self_attn.v_proj.weight"), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(rows("model.layers.0.mlp.gate_proj.weight"), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_TRUE(log_.empty());
}

TEST_F(GgufImportTest, InterleavesBiasesToo) {
  GgufBuilder builder = small_model();
  add_qkv_bias(builder);
  expect_refused(builder, {"blk.0.attn_output.bias is missing"});
  builder.floats("blk.0.attn_output.bias", {kHidden}, numbered(kHidden, 1));
  expect_imported(builder);
  EXPECT_EQ(json("config.json")["attention_bias"], true);
  EXPECT_THAT(rows("model.layers.0.self_attn.q_proj.bias"), ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  EXPECT_THAT(rows("model.layers.0.self_attn.v_proj.bias"), ElementsAre(0, 1, 2, 3));
}

TEST_F(GgufImportTest, WritesTheConfiguration) {
  GgufBuilder builder = small_model();
  builder.u32("tokenizer.ggml.eot_token_id", 5);
  expect_imported(builder);
  const auto checkpoint = Checkpoint::open(dir_ / "out");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const ModelConfig& config = checkpoint->config();
  EXPECT_EQ(config.family, Family::kLlama);
  EXPECT_EQ(config.hidden_size, kHidden);
  EXPECT_EQ(config.intermediate_size, kFfn);
  EXPECT_EQ(config.num_heads, kHeads);
  EXPECT_EQ(config.num_kv_heads, kKvHeads);
  EXPECT_EQ(config.head_dim, kHeadDim);
  EXPECT_EQ(config.max_position_embeddings, 32);
  EXPECT_EQ(config.vocab_size, 6);
  EXPECT_EQ(config.rope.theta, 5e5);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.dtype, DType::kF16);
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(1, 5));
  EXPECT_EQ(json("config.json")["rms_norm_eps"].dump(), "1e-06") << "not the FP32 number's FP64";
  EXPECT_EQ(json("generation_config.json"),
            MapJson::parse(R"({"bos_token_id": 0, "eos_token_id": [1, 5]})"));
}

TEST_F(GgufImportTest, UntiedEmbeddings) {
  GgufBuilder builder = small_model();
  builder.floats("output.weight", {6, kHidden}, numbered(6, kHidden));
  expect_imported(builder);
  EXPECT_EQ(json("config.json")["tie_word_embeddings"], false);
  EXPECT_THAT(rows("lm_head.weight"), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST_F(GgufImportTest, Qwen2) {
  GgufBuilder builder = small_model("qwen2", "qwen2");
  expect_refused(builder, {"blk.0.attn_q.bias is missing"});
  add_qkv_bias(builder);
  expect_imported(builder);
  EXPECT_TRUE(Checkpoint::open(dir_ / "out").ok());
  EXPECT_EQ(json("config.json")["model_type"], "qwen2");
  EXPECT_THAT(rows("model.layers.0.self_attn.q_proj.weight"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  const MapJson tokenizer = json("tokenizer.json");
  EXPECT_EQ(tokenizer["normalizer"]["type"], "NFC");
  const MapJson& split = tokenizer["pre_tokenizer"]["pretokenizers"][0];
  EXPECT_THAT(split["pattern"]["Regex"].get<std::string>(), ::testing::HasSubstr(R"(|\p{N}|)"));
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][1]["use_regex"], false);
  EXPECT_TRUE(tokenizer["post_processor"].is_null());
}

TEST_F(GgufImportTest, Qwen3) {
  GgufBuilder builder = small_model("qwen3", "qwen2");
  builder.u32("qwen3.attention.key_length", kHeadDim).u32("qwen3.attention.value_length", kHeadDim);
  expect_refused(builder, {"blk.0.attn_q_norm.weight is missing"});
  builder.floats("blk.0.attn_q_norm.weight", {kHeadDim}, {1, 2, 3, 4});
  builder.floats("blk.0.attn_k_norm.weight", {kHeadDim}, {5, 6, 7, 8});
  expect_imported(builder);
  EXPECT_EQ(json("config.json")["head_dim"], kHeadDim);
  EXPECT_THAT(rows("model.layers.0.self_attn.k_norm.weight"), ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(rows("model.layers.0.self_attn.q_proj.weight"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST_F(GgufImportTest, RopeScaling) {
  GgufBuilder builder = small_model();
  builder.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0f);
  expect_imported(builder);
  EXPECT_EQ(Checkpoint::open(dir_ / "out")->config().rope.scaling.kind, RopeScalingKind::kLinear);
  builder.text("llama.rope.scaling.type", "yarn");
  builder.u32("llama.rope.scaling.original_context_length", 16);
  expect_imported(builder);
  const RopeScaling yarn = Checkpoint::open(dir_ / "out")->config().rope.scaling;
  EXPECT_EQ(yarn.kind, RopeScalingKind::kYarn);
  EXPECT_EQ(yarn.factor, 4.0);
  EXPECT_EQ(yarn.original_max_position, 16);
  builder.f32("llama.rope.scaling.attn_factor", 1.5f);
  fs::remove_all(dir_ / "out");
  expect_refused(builder, {"llama.rope.scaling.attn_factor"});
  builder = small_model();
  builder.text("llama.rope.scaling.type", "longrope");
  expect_refused(builder, {"longrope", "yarn"});
}

TEST_F(GgufImportTest, RecognisesLlama3Divisors) {
  // theta 5e5, head_dim 4: frequencies 1 and 2^-9.47; wavelengths 6.3 and 4443 of 8192. The second
  // lies between 8192/4 and 8192/1: smooth = (8192 / 4443 - 1) / 3.
  const double wavelength = 2.0 * M_PI * std::sqrt(5e5);
  const double smooth = (8192.0 / wavelength - 1.0) / 3.0;
  const auto divisor = static_cast<float>(1.0 / ((1.0 - smooth) / 32.0 + smooth));
  GgufBuilder builder = small_model();
  // A head this small has no fully scaled frequency, so its largest divisor is not the factor.
  builder.floats("rope_freqs.weight", {2}, {1.0f, divisor});
  expect_refused(builder, {"rope_freqs.weight", "not Llama 3's"});
  builder.f32("llama.rope.freq_base", 1e9f);
  builder.floats("rope_freqs.weight", {2}, {1.0f, 32.0f});
  expect_imported(builder);
  const RopeScaling scaling = Checkpoint::open(dir_ / "out")->config().rope.scaling;
  EXPECT_EQ(scaling.kind, RopeScalingKind::kLlama3);
  EXPECT_EQ(scaling.factor, 32.0);
  EXPECT_EQ(scaling.low_freq_factor, 1.0);
  EXPECT_EQ(scaling.high_freq_factor, 4.0);
  EXPECT_EQ(scaling.original_max_position, 8192);
  fs::remove_all(dir_ / "out");
  builder.floats("rope_freqs.weight", {2}, {2.0f, 32.0f});
  expect_refused(builder, {"rope_freqs.weight", "value 0 is 2"});
  builder.floats("rope_freqs.weight", {3}, {1, 1, 32});
  expect_refused(builder, {"rope_freqs.weight", "3 values"});
}

TEST_F(GgufImportTest, RoundsOnceAndRefusesOverflow) {
  GgufBuilder builder = small_model();
  builder.floats("output_norm.weight", {kHidden},
                 {65504.0f, 65519.9f, 1.00048828125f, 1e-8f, -0.0f, 2.98e-8f, 1, 1});
  expect_imported(builder);
  EXPECT_THAT(rows("model.norm.weight"),
              ElementsAre(65504.0f, 65504.0f, 1.0f, 0.0f, 0.0f, 0.0f, 1.0f, 1.0f));
  fs::remove_all(dir_ / "out");
  for (const float bad : {65520.0f, -1e30f, INFINITY, NAN}) {
    builder.floats("output_norm.weight", {kHidden}, {1, 1, 1, 1, 1, 1, 1, bad});
    expect_refused(builder, {"x.gguf", "output_norm.weight", "FP16"});
  }
}

TEST_F(GgufImportTest, RefusesModelsThatItCannotImport) {
  const auto with = [&](const std::string& key, const std::string& value) {
    GgufBuilder builder = small_model();
    builder.text(key, value);
    return builder;
  };
  expect_refused(with("general.architecture", "gemma2"), {"gemma2", "llama, qwen2, qwen3"});
  expect_refused(with("tokenizer.ggml.model", "bert"), {"bert", "gpt2, llama"});
  expect_refused(with("tokenizer.ggml.pre", "tekken"), {"tekken", "smollm"});
  expect_refused(with("llama.block_count", "one"), {"llama.block_count", "whole number"});
  const auto number = [&](const std::string& key, std::uint32_t value) {
    GgufBuilder builder = small_model();
    builder.u32(key, value);
    return builder;
  };
  expect_refused(number("llama.expert_count", 8), {"expert_count"});
  expect_refused(number("llama.attention.sliding_window", 16), {"sliding_window"});
  expect_refused(number("llama.rope.dimension_count", 2), {"rope.dimension_count"});
  expect_refused(number("llama.attention.value_length", 8), {"value_length"});
  expect_refused(number("llama.vocab_size", 7), {"llama.vocab_size", "6 rows"});
  expect_refused(number("llama.block_count", 4000000000u), {"llama.block_count"});
  expect_refused(number("llama.block_count", 100000), {"num_hidden_layers", "100000"});
  expect_refused(number("llama.attention.head_count", 3), {"x.gguf"});
  expect_refused(number("split.count", 2), {"split"});
  for (const char* key : {"general.architecture", "llama.embedding_length", "llama.context_length",
                          "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.model",
                          "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    GgufBuilder builder = small_model();
    builder.erase(key);
    expect_refused(builder, {"x.gguf", key, "missing"});
  }
}

TEST_F(GgufImportTest, RefusesTensorsThatDoNotFit) {
  GgufBuilder builder = small_model();
  builder.erase_tensor("blk.0.ffn_up.weight");
  expect_refused(builder, {"x.gguf", "blk.0.ffn_up.weight is missing"});
  builder = small_model();
  builder.floats("blk.0.ffn_up.weight", {kHidden, kFfn}, numbered(kHidden, kFfn));
  expect_refused(builder, {"blk.0.ffn_up.weight", "[8, 6]", "[6, 8]"});
  builder = small_model();
  builder.floats("blk.1.ffn_up.weight", {kFfn, kHidden}, numbered(kFfn, kHidden));
  expect_refused(builder, {"blk.1.ffn_up.weight", "no model"});
  builder = small_model();
  builder.erase_tensor("token_embd.weight");
  expect_refused(builder, {"token_embd.weight"});
}

TEST_F(GgufImportTest, ByteLevelTokenizer) {
  GgufBuilder builder = small_model("llama", "llama-bpe");
  builder.text("tokenizer.chat_template", "{{ 'hello' }}\n");
  expect_imported(builder);
  const MapJson tokenizer = json("tokenizer.json");
  EXPECT_EQ(tokenizer["model"]["vocab"],
            MapJson::parse(R"({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "<tool>": 5})"));
  EXPECT_EQ(tokenizer["model"]["merges"], MapJson::parse(R"([["a", "b"]])"));
  EXPECT_EQ(tokenizer["model"]["ignore_merges"], true);
  const MapJson& added = tokenizer["added_tokens"];
  ASSERT_EQ(added.size(), 3u);
  EXPECT_EQ(added[0]["content"], "<s>");
  EXPECT_EQ(added[0]["special"], true);
  EXPECT_EQ(added[2]["content"], "<tool>");
  EXPECT_EQ(added[2]["special"], false);
  // Llama 3's tokenizer begins every text with BOS unless the file says otherwise.
  const MapJson& post = tokenizer["post_processor"];
  EXPECT_EQ(post["single"], MapJson::parse(R"([{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                               {"Sequence": {"id": "A", "type_id": 0}}])"));
  EXPECT_EQ(post["special_tokens"]["<s>"]["ids"], MapJson::parse("[0]"));
  const MapJson config = json("tokenizer_config.json");
  EXPECT_EQ(config["chat_template"], "{{ 'hello' }}\n");
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(config["model_max_length"], 32);
  EXPECT_EQ(config["added_tokens_decoder"]["5"]["content"], "<tool>");
  builder.flag("tokenizer.ggml.add_bos_token", false);
  expect_imported(builder);
  EXPECT_TRUE(json("tokenizer.json")["post_processor"].is_null());
  builder.flag("tokenizer.ggml.add_eos_token", true);
  expect_imported(builder);
  EXPECT_EQ(json("tokenizer.json")["post_processor"]["single"][1]["SpecialToken"]["id"], "</s>");
}

TEST_F(GgufImportTest, UnnamedPreTokenizerIsSaidAloud) {
  GgufBuilder builder = small_model();
  builder.erase("tokenizer.ggml.pre");
  expect_imported(builder);
  ASSERT_EQ(log_.size(), 1u);
  EXPECT_THAT(log_[0], ::testing::HasSubstr("GPT-2"));
  EXPECT_EQ(json("tokenizer.json")["pre_tokenizer"]["type"], "ByteLevel");
}

TEST_F(GgufImportTest, RefusesBrokenVocabularies) {
  const std::string kTokens = "tokenizer.ggml.tokens", kMerges = "tokenizer.ggml.merges";
  GgufBuilder builder = small_model();
  builder.texts(kTokens, {"<s>", "</s>", "a", "b", "a", "c"});
  expect_refused(builder, {"tokens 2 and 4", "\"a\""});
  builder.texts(kTokens, {"<s>", "</s>", "a", "b", "ab", "c", "d"});
  expect_refused(builder, {kTokens, "7 entries", "6 rows"});
  builder.texts(kTokens, {"<s>", "</s>", "a", "b", "\xff", "c"});
  expect_refused(builder, {"token 4", "UTF-8"});
  builder.texts(kTokens, {"<s>", "</s>", "a", "b", "", "c"});
  expect_refused(builder, {"token 4", "empty"});
  builder.texts(kTokens, {"<s>", "</s>", "a", "b", std::string(2000, 'x'), "c"});
  expect_refused(builder, {"token 4", "longer"});
  builder = small_model();
  builder.i32s("tokenizer.ggml.token_type", {3, 3, 1});
  expect_refused(builder, {"token_type", "3 entries"});
  for (const char* merge : {"ab", "a b b", "a c", " b", "a ", "b a", ""}) {
    builder = small_model();
    builder.texts(kMerges, {"a b", merge});
    expect_refused(builder, {"merge 1", merge});
  }
  builder = small_model();
  builder.u32("tokenizer.ggml.eos_token_id", 6);
  expect_refused(builder, {"eos_token_id", "6"});
  builder = small_model();
  builder.erase("tokenizer.ggml.bos_token_id").flag("tokenizer.ggml.add_bos_token", true);
  expect_refused(builder, {"add_bos_token"});
  builder = small_model();
  builder.text("tokenizer.chat_template", "\xc3\x28");
  expect_refused(builder, {"chat_template", "UTF-8"});
}

TEST_F(GgufImportTest, UnusedTokensAreLeftOut) {
  GgufBuilder builder = small_model();
  builder.texts("tokenizer.ggml.tokens", {"<s>", "</s>", "a", "b", "ab", "[PAD5]"});
  builder.i32s("tokenizer.ggml.token_type", {3, 3, 1, 1, 1, 5});
  expect_imported(builder);
  EXPECT_FALSE(json("tokenizer.json")["model"]["vocab"].contains("[PAD5]"));
}

/// A vocabulary that sentencepiece trained, with the merges that transformers derives from it.
TEST_F(GgufImportTest, SentencePieceTokenizer) {
  const MapJson golden = MapJson::parse(read_raw(KV8_TEST_DATA "/golden/sentencepiece.json"));
  const auto tokens = golden["tokens"].get<std::vector<std::string>>();
  GgufBuilder builder;
  add_model(builder, "llama", static_cast<std::int64_t>(tokens.size()));
  builder.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", tokens);
  builder.f32s("tokenizer.ggml.scores", golden["scores"].get<std::vector<float>>());
  builder.i32s("tokenizer.ggml.token_type", golden["types"].get<std::vector<std::int32_t>>());
  builder.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  builder.u32("tokenizer.ggml.unknown_token_id", 0);
  expect_imported(builder);
  const MapJson tokenizer = json("tokenizer.json");
  const MapJson& model = tokenizer["model"];
  EXPECT_EQ(model["byte_fallback"], true);
  EXPECT_EQ(model["fuse_unk"], true);
  EXPECT_EQ(model["unk_token"], "<unk>");
  EXPECT_EQ(model["vocab"].size(), tokens.size());
  const MapJson& expected = golden["merges"];
  ASSERT_EQ(model["merges"].size(), expected.size());
  ASSERT_GT(expected.size(), 400u);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(
        model["merges"][i][0].get<std::string>() + " " + model["merges"][i][1].get<std::string>(),
        expected[i].get<std::string>());
  }
  EXPECT_EQ(tokenizer["normalizer"], MapJson::parse(R"({"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})"));
  EXPECT_TRUE(tokenizer["pre_tokenizer"].is_null());
  EXPECT_EQ(tokenizer["decoder"]["decoders"].size(), 4u);
  EXPECT_EQ(tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
  EXPECT_EQ(tokenizer["added_tokens"].size(), 3u);
  EXPECT_EQ(json("tokenizer_config.json")["tokenizer_class"], "LlamaTokenizer");

  fs::remove_all(dir_ / "out");
  std::vector<float> scores = golden["scores"].get<std::vector<float>>();
  scores.back() = NAN;
  builder.f32s("tokenizer.ggml.scores", scores);
  expect_refused(builder, {"tokenizer.ggml.scores", "nan"});
  scores.pop_back();
  builder.f32s("tokenizer.ggml.scores", scores);
  expect_refused(builder, {"tokenizer.ggml.scores", "entries"});
}

class CountingSink : public ProgressSink {
 public:
  void begin(std::string_view, std::int64_t total, std::string_view) override { total_ = total; }
  void advance(std::int64_t done) override {
    done_ = done;
    if (done == stop_at_) set_interrupted(true);
  }
  void end() override { ended_ = true; }
  std::int64_t total_ = 0, done_ = 0, stop_at_ = -1;
  bool ended_ = false;
};

TEST_F(GgufImportTest, ReportsProgressAndStopsWhenAsked) {
  CountingSink sink;
  reporter_.progress = &sink;
  expect_imported(small_model());
  EXPECT_EQ(sink.total_, 11);
  EXPECT_EQ(sink.done_, 11);
  EXPECT_TRUE(sink.ended_);
  fs::remove_all(dir_ / "out");
  sink.stop_at_ = 3;
  const Status status = import(small_model());
  set_interrupted(false);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  expect_nothing_left();
}

TEST_F(GgufImportTest, KeepsOutOfForeignFolders) {
  expect_imported(small_model());
  expect_imported(small_model());  // its own folder: replaced
  write_raw(dir_ / "out/hf_quant_config.json", "{}");
  expect_error(import(small_model()), {"out", "hf_quant_config.json", "another folder"});
  EXPECT_TRUE(fs::exists(dir_ / "out/model.safetensors"));
  write_raw(dir_ / "file", "x");
  write_raw(dir_ / "x.gguf", small_model().build());
  expect_error(import_gguf(dir_ / "x.gguf", dir_ / "file", reporter_), {"not a folder"});
}

TEST_F(GgufImportTest, SurvivesTruncationAndFlippedBytes) {
  const std::string good = small_model().build();
  for (std::size_t size = 0; size < good.size(); size += 7) {
    EXPECT_FALSE(import_raw(good.substr(0, size)).ok()) << size;
  }
  expect_nothing_left();
  for (std::size_t i = 0; i < good.size(); i += 3) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (i % 2 == 0 ? 0x80 : 0x07));
    if (import_raw(bad).ok()) (void)Checkpoint::open(dir_ / "out");
    fs::remove_all(dir_ / "out");
  }
}

}  // namespace
}  // namespace kv8::io
