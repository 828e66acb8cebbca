// Search patterns of tokenizer files: literal strings and regular expressions.
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8::text {

struct Range {
  std::size_t begin, end;  ///< bytes
};

/// A literal or a regular expression. Immutable and safe to share between threads.
class Pattern {
 public:
  /// `expression` is in Oniguruma's Ruby syntax, as tokenizer files hold it.
  static Result<Pattern> regex(std::string_view expression, std::string_view source);
  static Result<Pattern> literal(std::string_view text, std::string_view source);
  /// {"Regex": "…"} or {"String": "…"}.
  static Result<Pattern> parse(const nlohmann::ordered_json& json, std::string_view source);

  /// The matches in `subject` (valid UTF-8) from left to right, not overlapping. A search that
  /// runs into the matching limits ends there: what follows counts as unmatched.
  void find_all(std::string_view subject, std::vector<Range>& out) const;
  /// `subject` with every match replaced.
  std::string replace_all(std::string_view subject, std::string_view replacement) const;
  /// The most bytes that replace_all can make of one byte, so that chains can be bounded.
  std::size_t growth(std::string_view replacement) const;
  /// True for a literal of one character.
  bool is_single_character() const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;  // null for a literal
  std::string literal_;
};

/// Files whose replacements could make more than this many bytes of one are refused.
inline constexpr std::size_t kMaxGrowth = 4096;

/// Rewrites Oniguruma's Ruby syntax as PCRE2's with the same meaning; constructs that have none, or
/// that could be misread, are refused by name.
Result<std::string> translate_regex(std::string_view expression, std::string_view source);

}  // namespace kv8::text
