#include "bench/shape_text.h"

namespace kv8::bench {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else if (c != '\r') {
      parts.back() += c;
    }
  }
  return parts;
}

Result<std::vector<int>> parse_shape(const std::string& text, std::string_view names) {
  const std::vector<std::string> parts = split(text, ',');
  std::vector<int> numbers;
  for (const std::string& part : parts) {
    const auto value = parse_number<int>(part);
    if (value.has_value() && *value > 0) numbers.push_back(*value);
  }
  if (parts.size() != split(names, ',').size() || numbers.size() != parts.size() ||
      numbers[0] % numbers[1] != 0) {
    return usage_error("shape \"{}\": expected {}, all positive, heads a multiple of kv_heads",
                       text, names);
  }
  return numbers;
}

}  // namespace kv8::bench
