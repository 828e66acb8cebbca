#include "io/gguf_metadata.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

namespace kv8::io {
namespace {

/// FP32 1e-5 read as FP64 is 9.99999975e-06; its decimal is what the file's writer meant.
double shortest_decimal(double value) {
  const auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value) return value;
  const std::string text = fmt::format("{}", narrow);
  double result = value;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

std::optional<std::int64_t> as_integer(const GgufValue& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return *number;
  const auto* number = std::get_if<std::uint64_t>(&value);
  if (number == nullptr || *number > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(*number);
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

Error GgufMetadata::missing(std::string_view key) const {
  return bad_input("{}: metadata key {} is missing", source_, key);
}

Error GgufMetadata::wrong_type(std::string_view key, std::string_view expected) const {
  return bad_input("{}: metadata key {} is not {}", source_, key, expected);
}

Result<std::int64_t> GgufMetadata::integer(std::string_view key, std::int64_t min,
                                           std::int64_t max) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(key);
  const auto number = as_integer(*value);
  if (!number || *number < min || *number > max) {
    return wrong_type(key, fmt::format("a whole number from {} to {}", min, max));
  }
  return *number;
}

Result<std::int64_t> GgufMetadata::integer_or(std::string_view key, std::int64_t min,
                                              std::int64_t max, std::int64_t fallback) const {
  if (!has(key)) return fallback;
  return integer(key, min, max);
}

Result<double> GgufMetadata::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(key);
  if (const auto whole = as_integer(*value)) return static_cast<double>(*whole);
  const auto* number = std::get_if<double>(value);
  if (number == nullptr || !std::isfinite(*number)) return wrong_type(key, "a finite number");
  return shortest_decimal(*number);
}

Result<double> GgufMetadata::number_or(std::string_view key, double fallback) const {
  if (!has(key)) return fallback;
  return number(key);
}

Result<bool> GgufMetadata::flag_or(std::string_view key, bool fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  const auto* flag = std::get_if<bool>(value);
  if (flag == nullptr) return wrong_type(key, "a bool");
  return *flag;
}

Result<std::string> GgufMetadata::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(key);
  const auto* text = std::get_if<std::string>(value);
  if (text == nullptr) return wrong_type(key, "a string");
  return *text;
}

Result<std::string> GgufMetadata::string_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  return string(key);
}

template <typename T>
Result<const std::vector<T>*> GgufMetadata::array(std::string_view key,
                                                  std::string_view expected) const {
  const GgufValue* value = find(key);
  const auto* values = value == nullptr ? nullptr : std::get_if<std::vector<T>>(value);
  if (value != nullptr && values == nullptr) return wrong_type(key, expected);
  return values;
}

Result<const std::vector<std::string>*> GgufMetadata::strings(std::string_view key) const {
  return array<std::string>(key, "an array of strings");
}
Result<const std::vector<std::int64_t>*> GgufMetadata::integers(std::string_view key) const {
  return array<std::int64_t>(key, "an array of whole numbers");
}
Result<const std::vector<double>*> GgufMetadata::numbers(std::string_view key) const {
  return array<double>(key, "an array of floats");
}

}  // namespace kv8::io
