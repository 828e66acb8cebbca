// UTF-8 scanning and the character classes that tokenizers use.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kv8::text {

enum class Utf8Kind { kValid, kBroken, kIncomplete };

/// One step over possibly broken UTF-8. kIncomplete: the text ends inside a character that is
/// valid so far. For kBroken `length` is that of the maximal subpart that one U+FFFD stands for.
struct Utf8Step {
  Utf8Kind kind;
  std::size_t length;
};

/// The step at `at` < text.size().
Utf8Step next_utf8(std::string_view text, std::size_t at);

struct CodePoint {
  char32_t value;
  std::size_t length;
};

/// The character at `at` of valid UTF-8.
CodePoint decode_utf8(std::string_view text, std::size_t at);
/// The last character of valid, non-empty UTF-8.
CodePoint last_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t value);
bool is_valid_utf8(std::string_view text);

/// Unicode's White_Space property.
bool is_white_space(char32_t value);
/// General category Nd, Nl or No.
bool is_numeric(char32_t value);
/// A letter-like, mark, decimal digit, connector or joiner: `\w` of Unicode's UTS 18.
bool is_word(char32_t value);

/// Bytes of white space at the start and at the end of valid UTF-8.
std::size_t leading_white_space(std::string_view text);
std::size_t trailing_white_space(std::string_view text);

/// The bodies of bracket classes for regular expressions. kWordClass is `is_word` without the two
/// joiners, U+200C and U+200D.
extern const std::string_view kWhiteSpaceClass;
extern const std::string_view kNotWhiteSpaceClass;
extern const std::string_view kWordClass;

}  // namespace kv8::text
