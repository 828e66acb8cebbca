#include "base/json.h"

#include <gtest/gtest.h>

namespace kv8 {
namespace {

TEST(Json, ErrorsNameLineAndColumn) {
  const auto parsed = parse_json("{\n  \"a\": 1,\n  \"b\" 2\n}", "file.json");
  ASSERT_FALSE(parsed.ok());
  EXPECT_NE(parsed.error().message.find("file.json: line 3, column 7"), std::string::npos)
      << parsed.error().message;
}

TEST(Json, DeepNestingIsRefusedBeforeItRecurses) {
  EXPECT_TRUE(parse_json(std::string(64, '[') + std::string(64, ']'), "x").ok());
  EXPECT_FALSE(parse_json(std::string(65, '[') + std::string(65, ']'), "x").ok());
  EXPECT_FALSE(parse_json(std::string(1 << 20, '['), "x").ok());
  EXPECT_TRUE(parse_json("\"" + std::string(1000, '[') + "\"", "x").ok());
}

TEST(Json, ManyKeysAreRefusedBeforeTheyAreCompared) {
  std::string keys;
  for (int i = 0; i < 200000; ++i) keys += fmt::format("\"{}\":0,", i);
  const auto parsed = parse_json("{" + keys + "\"last\":0}", "x");
  ASSERT_FALSE(parsed.ok());
  EXPECT_NE(parsed.error().message.find("10000 keys"), std::string::npos);
  EXPECT_TRUE(parse_json("[" + std::string(20000, ' ') + "{\"a:b\": \"::::\"}]", "x").ok());
}

TEST(Json, WholeNumbersInRangeOnly) {
  const Json object = *parse_json(R"({"a": 3, "b": 3.0, "c": 3.5, "d": "3", "e": null,
                                      "f": 18446744073709551615, "g": 1e300, "h": true})",
                                  "x");
  EXPECT_EQ(*json_int(object, "a", "x", 0, 10), 3);
  EXPECT_EQ(*json_int(object, "b", "x", 0, 10), 3);
  for (const char* key : {"c", "d", "f", "g", "h", "missing", "e"}) {
    EXPECT_FALSE(json_int(object, key, "x", 0, INT64_MAX).ok()) << key;
  }
  EXPECT_FALSE(json_int(object, "a", "x", 4, 10).ok());
  EXPECT_EQ(*json_int_or(object, "e", "x", 0, 10, 7), 7);
  EXPECT_NE(json_int(object, "c", "x.json", 0, 10)
                .error()
                .message.find("x.json: field `c` is number 3.5"),
            std::string::npos);
}

TEST(Json, TypedLookUps) {
  const Json object = *parse_json(R"({"s": "text", "n": 0.5, "t": true})", "x");
  EXPECT_EQ(*json_string(object, "s", "x"), "text");
  EXPECT_EQ(*json_number(object, "n", "x"), 0.5);
  EXPECT_EQ(*json_bool_or(object, "t", "x", false), true);
  EXPECT_EQ(*json_string_or(object, "none", "x", "fallback"), "fallback");
  EXPECT_FALSE(json_bool_or(object, "s", "x", false).ok());
  EXPECT_FALSE(json_number(object, "s", "x").ok());
  EXPECT_FALSE(json_string(object, "n", "x").ok());
}

}  // namespace
}  // namespace kv8
