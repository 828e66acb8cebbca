// Shapes and lists as the command line and small files spell them.
#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8::bench {

std::vector<std::string> split(std::string_view text, char separator);

/// The whole text as a number, or nothing.
template <class Number>
std::optional<Number> parse_number(const std::string& text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data(), end, value);
  if (code != std::errc{} || stop != end) return std::nullopt;
  return value;
}

/// Positive numbers separated by commas, one for each of `names` ("heads,kv_heads,…"); the first is
/// a multiple of the second.
Result<std::vector<int>> parse_shape(const std::string& text, std::string_view names);

}  // namespace kv8::bench
