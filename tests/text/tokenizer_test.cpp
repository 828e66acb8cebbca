// Small tokenizer files written here: what is refused, and rules that the golden files do not
// reach. The expected ids and texts are those of Hugging Face tokenizers 0.23.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/pattern.h"
#include "text_test_util.h"

namespace kv8::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A file around these parts; tokens a=0 b=1 ab=2 c=3 " "=4 ▁=5 <unk>=6 <0xC3>=7 <0xA9>=8 ▁a=9.
Json file() {
  return Json::parse(R"({
    "truncation": {"max_length": 1}, "padding": {"length": 9},
    "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": false,
      "byte_fallback": true, "ignore_merges": false,
      "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, " ": 4, "▁": 5, "<unk>": 6, "<0xC3>": 7,
                "<0xA9>": 8, "▁a": 9},
      "merges": ["a b", ["▁", "a"]]}})");
}

Result<Tokenizer> parse(const Json& json) { return Tokenizer::parse(json.dump(), "t.json"); }

std::string refusal(const Json& json) {
  const Result<Tokenizer> tokenizer = parse(json);
  return tokenizer.ok() ? "accepted" : tokenizer.error().message;
}

std::vector<TokenId> ids(const Json& json, std::string_view text) {
  return parse(json).value().encode(text, false);
}

Json with(const char* pointer, const Json& value) {
  Json json = file();
  json[Json::json_pointer(pointer)] = value;
  return json;
}

TEST(Tokenizer, MergesByRankAndFallsBackToBytes) {
  EXPECT_THAT(ids(file(), "aab"), ElementsAre(0, 2));
  EXPECT_THAT(ids(file(), "a\xC3\xA9z"), ElementsAre(0, 7, 8, 6));
  EXPECT_THAT(ids(file(), "zz"), ElementsAre(6, 6));
  EXPECT_THAT(ids(with("/model/fuse_unk", true), "zza"), ElementsAre(6, 0));
  EXPECT_THAT(ids(with("/model/unk_token", nullptr), "zza"), ElementsAre(0));
  EXPECT_THAT(ids(with("/model/ignore_merges", true), "▁a"), ElementsAre(9));
  EXPECT_TRUE(ids(file(), "").empty());
}

TEST(Tokenizer, MetaspacePrependSchemes) {
  const auto metaspace = [](const char* scheme, bool split) {
    return with("/pre_tokenizer", {{"type", "Metaspace"},
                                   {"replacement", "▁"},
                                   {"prepend_scheme", scheme},
                                   {"split", split}});
  };
  EXPECT_THAT(ids(metaspace("always", true), "a a"), ElementsAre(9, 9));
  EXPECT_THAT(ids(metaspace("never", true), "a a"), ElementsAre(0, 9));
  EXPECT_THAT(ids(metaspace("first", false), "a"), ElementsAre(9));
  Json json = metaspace("first", true);
  json["added_tokens"] = {{{"id", 10}, {"content", "<s>"}, {"special", true}}};
  EXPECT_THAT(ids(json, "a<s>a"), ElementsAre(9, 10, 0));
}

TEST(Tokenizer, AddedTokens) {
  const auto added = [](const Json& options) {
    Json token = {{"id", 10}, {"content", "ab"}, {"normalized", false}};
    token["content"] = "bc";
    token.update(options);
    return with("/added_tokens", Json::array({token}));
  };
  EXPECT_THAT(ids(added({{"lstrip", true}}), "a  bc "), ElementsAre(0, 10, 4));
  EXPECT_THAT(ids(added({{"rstrip", true}}), "a bc  a"), ElementsAre(0, 4, 10, 0));
  EXPECT_THAT(ids(added({{"single_word", true}}), "abc bc"), ElementsAre(2, 3, 4, 10));
  Json normalized = added({{"normalized", true}});
  normalized["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(ids(normalized, "aBC"), ElementsAre(0, 10));
  Json raw = added(Json::object());
  raw["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(ids(raw, "aBC"), ElementsAre(2, 3));
  EXPECT_EQ(parse(added({{"special", true}})).value().decode({0, 10}, true), "a");
  EXPECT_EQ(parse(added({{"special", false}})).value().decode({0, 10}, true), "abc");
}

TEST(Tokenizer, TemplatesAddTokensAroundTheText) {
  const Json json = with("/post_processor",
                         Json::parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
        {"type": "TemplateProcessing", "pair": [],
         "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A"}},
                    {"SpecialToken": {"id": "y"}}],
         "special_tokens": {"x": {"ids": [6, 3]}, "y": {"ids": [1]}}}]})"));
  const Tokenizer tokenizer = parse(json).value();
  EXPECT_THAT(tokenizer.encode("a", true), ElementsAre(6, 3, 0, 1));
  EXPECT_THAT(tokenizer.encode("a", false), ElementsAre(0));
}

TEST(Tokenizer, NamesWhatItRefuses) {
  EXPECT_THAT(refusal(with("/model/type", "Unigram")), HasSubstr("`Unigram`"));
  EXPECT_THAT(refusal(with("/model/dropout", 0.1)), HasSubstr("dropout"));
  EXPECT_THAT(refusal(with("/model/end_of_word_suffix", "</w>")), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(refusal(with("/model/continuing_subword_prefix", "##")), HasSubstr("subword_prefix"));
  EXPECT_THAT(refusal(with("/normalizer", {{"type", "BertNormalizer"}})),
              HasSubstr("BertNormalizer"));
  EXPECT_THAT(refusal(with("/pre_tokenizer", {{"type", "UnicodeScripts"}})),
              HasSubstr("UnicodeScripts"));
  EXPECT_THAT(refusal(with("/post_processor", {{"type", "RobertaProcessing"}})),
              HasSubstr("RobertaProcessing"));
  EXPECT_THAT(refusal(with("/decoder", {{"type", "CTC"}})), HasSubstr("CTC"));
  EXPECT_EQ(parse(with("/model/dropout", 0.0)).ok(), true);
}

TEST(Tokenizer, BadFilesGetOneClearLine) {
  EXPECT_THAT(refusal(with("/model/merges", Json::array({"a z"}))),
              HasSubstr("the token `z` is not in `model.vocab`"));
  EXPECT_THAT(refusal(with("/model/merges", Json::array({"b c"}))), HasSubstr("`bc`"));
  EXPECT_THAT(refusal(with("/model/merges", Json::array({"a b c"}))), HasSubstr("merge 0"));
  EXPECT_THAT(refusal(with("/model/merges", Json::array({{"a", "b", "c"}}))), HasSubstr("pair"));
  EXPECT_THAT(refusal(with("/model/merges", Json::array({1}))), HasSubstr("model.merges"));
  EXPECT_THAT(refusal(with("/model/vocab/a", 1)), HasSubstr("share the id 1"));
  EXPECT_THAT(refusal(with("/model/vocab/a", -1)), HasSubstr("id -1"));
  EXPECT_THAT(refusal(with("/model/vocab/a", 4294967296)), HasSubstr("id 4294967296"));
  EXPECT_THAT(refusal(with("/model/vocab/a", 18446744073709551615u)), HasSubstr("has id"));
  EXPECT_THAT(refusal(with("/model/vocab/a", "x")), HasSubstr("model.vocab"));
  EXPECT_THAT(refusal(with("/model/unk_token", "<none>")), HasSubstr("<none>"));
  EXPECT_THAT(refusal(with("/added_tokens", {{{"id", 0}, {"content", "x"}}})), HasSubstr("`x`"));
  EXPECT_THAT(refusal(with("/added_tokens", {{{"id", 5000000000}, {"content", "x"}}})),
              HasSubstr("`id`"));
  EXPECT_THAT(
      refusal(with("/pre_tokenizer",
                   {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}})),
      HasSubstr("regular expression"));
  EXPECT_THAT(Tokenizer::parse("{\n\"a\": x}", "t.json").error().message,
              HasSubstr("t.json: line 2, column 6"));
  EXPECT_THAT(Tokenizer::parse(std::string(100, '['), "t.json").error().message,
              HasSubstr("nested deeper"));
  EXPECT_THAT(Tokenizer::load("/nonexistent").error().message, HasSubstr("tokenizer.json"));
}

TEST(Tokenizer, GrowthOfTextIsBounded) {
  Json steps = Json::array();
  for (int i = 0; i < 40; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  EXPECT_THAT(refusal(with("/normalizer", {{"type", "Sequence"}, {"normalizers", steps}})),
              HasSubstr("grow"));
  EXPECT_THAT(refusal(with("/decoder", {{"type", "Sequence"}, {"decoders", steps}})),
              HasSubstr("grow"));
}

TEST(StreamDecoder, HoldsByteTokensUntilTheirRunEnds) {
  const Tokenizer tokenizer =
      parse(with("/decoder", {{"type", "Sequence"},
                              {"decoders", {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}))
          .value();
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(0), "a");
  EXPECT_EQ(stream.push(7), "");
  EXPECT_EQ(stream.push(8), "");
  EXPECT_EQ(stream.push(1),
            "\xC3\xA9"
            "b");
  EXPECT_EQ(stream.push(7), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.push(0), "a");
}

TEST(StreamDecoder, StripsOneLeadingSpaceOnly) {
  const Tokenizer tokenizer = Tokenizer::load(data_path("tokenizers/llama2")).value();
  EXPECT_TRUE(tokenizer.strips_leading_space());
  const auto text = tokenizer.encode("  two  spaces", false);
  StreamDecoder stream(tokenizer);
  std::string joined;
  for (const TokenId id : text) joined += stream.push(id);
  EXPECT_EQ(joined + stream.finish(), "  two  spaces");
}

TEST(Pattern, FollowsOniguruma) {
  const auto matches = [](const char* expression, std::string_view text) {
    const Pattern pattern = Pattern::regex(expression, "test").value();
    std::vector<Range> ranges;
    pattern.find_all(text, ranges);
    std::vector<std::string> found;
    for (const Range& range : ranges) {
      found.emplace_back(text.substr(range.begin, range.end - range.begin));
    }
    return found;
  };
  EXPECT_TRUE(matches(R"(\s)", "\xE1\xA0\x8E").empty());  // U+180E is no white space
  EXPECT_THAT(matches(R"(\s)", "\xC2\x85"), ElementsAre("\xC2\x85"));
  EXPECT_THAT(matches(R"(\w+)", "e\xCC\x81 \xC2\xB2"), ElementsAre("e\xCC\x81", "\xC2\xB2"));
  EXPECT_THAT(matches(R"([^\S\n]+)", " \t\n "), ElementsAre(" \t", " "));
  EXPECT_THAT(matches(R"(\h+)", "xfFz9"), ElementsAre("fF", "9"));  // hexadecimal digits
  EXPECT_TRUE(matches(R"(\p{Han})", "\xE3\x80\x81").empty());       // 、 is common to scripts
  EXPECT_THAT(matches("^a", "a\na"), ElementsAre("a", "a"));        // always multi-line
  EXPECT_THAT(matches("a*", "baa"), ElementsAre("", "aa"));
  EXPECT_THAT(matches("(?i:'s)", "'S'\xC5\xBF"), ElementsAre("'S", "'\xC5\xBF"));
  for (const char* refused : {"a(?i)b", "[a[b]]", "[a&&b]", "a{1,2}+", "(?R)", "(*FAIL)", "\\Qa",
                              "x{,3}", "\\K", "(?#c)", "\\C", "[", "(", "\\"}) {
    EXPECT_FALSE(Pattern::regex(refused, "test").ok()) << refused;
  }
}

TEST(Pattern, HostileExpressionsEnd) {
  const Pattern pattern = Pattern::regex("(a+)+b|(a|aa)+c", "test").value();
  std::vector<Range> ranges;
  pattern.find_all(std::string(100'000, 'a'), ranges);
  EXPECT_TRUE(ranges.empty());
}

}  // namespace
}  // namespace kv8::text
