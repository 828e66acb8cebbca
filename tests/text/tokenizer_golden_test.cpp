// The ids and texts that Hugging Face `tokenizers` gives, for five kinds of tokenizer.
#include <gtest/gtest.h>

#include "base/hash.h"
#include "text/tokenizer.h"
#include "text_test_util.h"

namespace kv8::text {
namespace {

std::string digest(const std::vector<TokenId>& ids) {
  return sha256_hex(std::as_bytes(std::span(ids)));  // little-endian, as on every supported machine
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_EQ(piece, replace_broken_utf8(piece)) << "half a character";
    text += piece;
  }
  return text + decoder.finish();
}

class TokenizerGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::filesystem::path dir = data_path("tokenizers/" + GetParam());
    if (GetParam() == "smollm2") {
      if (!smollm2_dir()) {
        GTEST_SKIP() << "SmolLM2's tokenizer is not here: set KV8_SMOLLM2_DIR, or `make demo`";
      }
      dir = *smollm2_dir();
    }
    tokenizer_.emplace(Tokenizer::load(dir).value());
    golden_ = golden("tokenizer_" + GetParam() + ".json");
  }
  std::optional<Tokenizer> tokenizer_;
  Json golden_;
};

TEST_P(TokenizerGolden, Corpus) {
  const std::string corpus = read_text_file(data_path("tokenizers/corpus.txt")).value();
  ASSERT_EQ(sha256_hex(corpus), golden_["corpus"]["sha256"].get<std::string>());
  std::vector<TokenId> all;
  std::size_t begin = 0;
  int wrong = 0;
  for (const Json& expected : golden_["corpus"]["chunks"]) {
    const std::size_t end = corpus.find('\x1E', begin);
    ASSERT_NE(end, std::string::npos);
    const std::string chunk = corpus.substr(begin, end - begin);
    begin = end + 1;
    const std::vector<TokenId> ids = tokenizer_->encode(chunk, false);
    all.insert(all.end(), ids.begin(), ids.end());
    const bool same = ids.size() == expected[0].get<std::size_t>() &&
                      digest(ids).substr(0, 16) == expected[1].get<std::string>();
    if (!same && ++wrong <= 5) ADD_FAILURE() << "chunk: " << chunk.substr(0, 300);
  }
  EXPECT_EQ(begin, corpus.size());
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(digest(all), golden_["corpus"]["sha256_of_all_ids"].get<std::string>());
}

TEST_P(TokenizerGolden, Strings) {
  for (const Json& expected : golden_["strings"]) {
    const auto text = expected["text"].get<std::string>();
    SCOPED_TRACE(expected["text"].dump());
    const auto ids = expected["ids"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer_->encode(text, true), ids);
    EXPECT_EQ(tokenizer_->encode(text, false),
              expected.contains("plain") ? expected["plain"].get<std::vector<TokenId>>() : ids);
    EXPECT_EQ(tokenizer_->decode(ids, false), expected["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer_->decode(ids, true), expected["decoded_skip"].get<std::string>());
    EXPECT_EQ(streamed(*tokenizer_, ids), expected["decoded_skip"].get<std::string>());
  }
}

TEST_P(TokenizerGolden, Decode) {
  for (const Json& expected : golden_["decode"]) {
    SCOPED_TRACE(expected["ids"].dump());
    const auto ids = expected["ids"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer_->decode(ids, false), expected["text"].get<std::string>());
    EXPECT_EQ(tokenizer_->decode(ids, true), expected["text_skip"].get<std::string>());
    EXPECT_EQ(streamed(*tokenizer_, ids), expected["text_skip"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerGolden,
                         ::testing::Values("smollm2", "llama3", "qwen2", "llama2", "mistral"),
                         [](const auto& info) { return info.param; });

TEST(Utf8, RepairsAsPythonDoes) {
  const Json all = golden("utf8_repair.json");
  for (const Json& expected : all["cases"]) {
    const auto hex = expected["hex"].get<std::string>();
    std::string bytes;
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    EXPECT_EQ(replace_broken_utf8(bytes), expected["text"].get<std::string>()) << hex;
  }
}

}  // namespace
}  // namespace kv8::text
