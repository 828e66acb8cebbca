#include "quant/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "base/hash.h"
#include "base/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace kv8::quant {
namespace {

using testing::HasSubstr;

/// $KV8_DATASETS for one test.
class DatasetsVariable {
 public:
  explicit DatasetsVariable(const char* value) {
    if (value != nullptr) {
      ::setenv("KV8_DATASETS", value, 1);
    } else {
      ::unsetenv("KV8_DATASETS");
    }
  }
  ~DatasetsVariable() { ::unsetenv("KV8_DATASETS"); }
};

class DatasetTest : public testing::Test {
 protected:
  Result<Dataset> load(const std::string& name, std::int64_t num_samples = 512,
                       std::int64_t sample_tokens = 16) {
    CalibrationOptions options;
    options.dataset = name;
    options.num_samples = num_samples;
    options.sample_tokens = sample_tokens;
    Reporter reporter;
    reporter.log = [this](LogLevel, std::string_view line) { said_ += std::string(line) + "\n"; };
    return load_dataset(options, tokenizer_, reporter);
  }
  std::string text_of(const std::vector<std::int32_t>& ids) const {
    return tokenizer_.decode(ids, false);
  }

  test::TempDir dir_;
  text::Tokenizer tokenizer_ = [this] {
    test::make_tiny_checkpoint("qwen3", dir_ / "model");
    return text::Tokenizer::load(dir_ / "model").value();
  }();
  std::string said_;
};

TEST_F(DatasetTest, WindowsCoverATextInOrder) {
  test::write_bytes(dir_ / "a.txt", "0123456789abcdefXYZ");
  const Dataset dataset = load((dir_ / "a.txt").string(), 512, 8).value();
  ASSERT_EQ(dataset.samples.size(), 3u);
  EXPECT_EQ(text_of(dataset.samples[0]), "01234567");
  EXPECT_EQ(text_of(dataset.samples[2]), "XYZ");
  EXPECT_EQ(dataset.sha256, sha256_hex(std::string_view("0123456789abcdefXYZ")));
  EXPECT_EQ(load((dir_ / "a.txt").string(), 2, 8)->samples.size(), 2u);
}

TEST_F(DatasetTest, LongTextsAreCutAtNoCharacter) {
  std::string text;
  for (int i = 0; i < 700000; ++i) text += "\xC3\xA9";  // no newline anywhere
  const auto windows = split_windows(tokenizer_, text, 100000, 1000);
  std::string joined;
  for (const auto& window : windows) joined += text_of(window);
  EXPECT_EQ(joined, text);
}

TEST_F(DatasetTest, JsonLinesGiveASampleEach) {
  test::write_bytes(dir_ / "a.jsonl",
                    "{\"text\": \"first record, which is long\"}\n\n{\"article\": \"second\"}\r\n"
                    "{\"content\": \"third\"}");
  const Dataset dataset = load((dir_ / "a.jsonl").string()).value();
  ASSERT_EQ(dataset.samples.size(), 3u);
  EXPECT_EQ(text_of(dataset.samples[0]), "first record, wh");
  EXPECT_EQ(text_of(dataset.samples[1]), "second");
  EXPECT_EQ(text_of(dataset.samples[2]), "third");
}

TEST_F(DatasetTest, BadLinesAreNamed) {
  test::write_bytes(dir_ / "a.jsonl", "{\"text\": \"ok\"}\n{\"text\": 5}\n");
  test::write_bytes(dir_ / "b.jsonl", "{\"text\": \"ok\"}\n\n{\"txt\": \"x\"}\n");
  test::write_bytes(dir_ / "c.jsonl", "{\"text\": \n");
  test::write_bytes(dir_ / "empty.txt", "");
  EXPECT_THAT(load((dir_ / "a.jsonl").string()).error().message, HasSubstr("line 2"));
  EXPECT_THAT(load((dir_ / "b.jsonl").string()).error().message, HasSubstr("line 3"));
  EXPECT_THAT(load((dir_ / "c.jsonl").string()).error().message, HasSubstr("line 1"));
  EXPECT_THAT(load((dir_ / "empty.txt").string()).error().message, HasSubstr("no text"));
}

TEST_F(DatasetTest, NamesAreFoundUnderTheVariable) {
  std::filesystem::create_directories(dir_ / "sets/wikitext");
  test::write_bytes(dir_ / "sets/wikitext/b.txt", "second file");
  test::write_bytes(dir_ / "sets/wikitext/a.txt", "first file");
  test::write_bytes(dir_ / "sets/wikitext/readme.md", "not text");
  test::write_bytes(dir_ / "sets/cnn_dailymail.jsonl", "{\"article\": \"news\"}");
  const DatasetsVariable variable((dir_ / "sets").c_str());
  const Dataset wikitext = load("wikitext").value();
  ASSERT_EQ(wikitext.samples.size(), 2u);
  EXPECT_EQ(text_of(wikitext.samples[0]), "first file");
  EXPECT_EQ(wikitext.name, "wikitext");
  const Dataset preferred = load("").value();
  EXPECT_EQ(preferred.name, "cnn_dailymail");
  EXPECT_EQ(text_of(preferred.samples.at(0)), "news");
  EXPECT_THAT(said_, HasSubstr("cnn_dailymail"));
  EXPECT_EQ(load("builtin")->name, "builtin");
  const auto missing = load("pile");
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message, HasSubstr((dir_ / "sets/pile.jsonl").string()));
}

TEST_F(DatasetTest, WithoutTheVariableTheBuiltinTextIsTheDefault) {
  const DatasetsVariable variable(nullptr);
  const Dataset dataset = load("", 3, 512).value();
  EXPECT_EQ(dataset.name, "builtin");
  EXPECT_EQ(dataset.samples.size(), 3u);
  EXPECT_EQ(dataset.sha256, sha256_hex(builtin_calibration_text()));
  EXPECT_THAT(said_, HasSubstr("builtin"));
  EXPECT_THAT(load("pile").error().message, HasSubstr("$KV8_DATASETS is not set"));
}

}  // namespace
}  // namespace kv8::quant
