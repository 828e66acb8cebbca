#include "base/json.h"

#include <algorithm>
#include <cmath>

#include "base/file.h"

namespace kv8 {
namespace {

constexpr int kMaxDepth = 64;
/// Keys of one object: a look-up among ordered keys is linear, so that more would be a way to
/// stall.
constexpr int kMaxKeys = 10000;

struct LineColumn {
  std::size_t line = 1, column = 1;
};

LineColumn locate(std::string_view text, std::size_t byte) {
  LineColumn at;
  for (const char c : text.substr(0, std::min(byte, text.size()))) {
    at.column = c == '\n' ? 1 : at.column + 1;
    at.line += c == '\n';
  }
  return at;
}

/// What of the text's shape exceeds the limits, or "". Brackets and colons inside strings do not
/// count. The parser itself recurses, and appends keys, without a limit.
std::string excess(std::string_view text) {
  std::vector<int> keys;  // of each open bracket
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      keys.push_back(0);
      if (keys.size() > kMaxDepth) return fmt::format("nested deeper than {} levels", kMaxDepth);
    } else if (c == ':' && !keys.empty()) {
      if (++keys.back() > kMaxKeys) return fmt::format("an object of over {} keys", kMaxKeys);
    } else if ((c == '}' || c == ']') && !keys.empty()) {
      keys.pop_back();
    }
  }
  return {};
}

std::string kind_of(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  return fmt::format("{} {}", value.type_name(), text);
}

const Json* find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Error missing(std::string_view key, std::string_view source) {
  return bad_input("{}: field `{}` is missing", source, key);
}

Result<std::int64_t> as_int(const Json& value, std::string_view key, std::string_view source,
                            std::int64_t min, std::int64_t max) {
  const bool whole = value.is_number_integer() ||
                     (value.is_number_float() && std::abs(value.get<double>()) < 9e15 &&
                      value.get<double>() == std::floor(value.get<double>()));
  const bool huge = value.is_number_unsigned() &&
                    value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
  const std::int64_t number = whole && !huge ? value.get<std::int64_t>() : 0;
  if (!whole || huge || number < min || number > max) {
    return bad_input("{}: field `{}` is {}, expected a whole number from {} to {}", source, key,
                     kind_of(value), min, max);
  }
  return number;
}

Result<double> as_number(const Json& value, std::string_view key, std::string_view source) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    return bad_input("{}: field `{}` is {}, expected a number", source, key, kind_of(value));
  }
  return value.get<double>();
}

Result<std::string> as_string(const Json& value, std::string_view key, std::string_view source) {
  if (!value.is_string()) {
    return bad_input("{}: field `{}` is {}, expected a string", source, key, kind_of(value));
  }
  return value.get<std::string>();
}

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view source) {
  if (const std::string reason = excess(text); !reason.empty()) {
    return bad_input("{}: {}", source, reason);
  }
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& failure) {
    const LineColumn at = locate(text, failure.byte == 0 ? 0 : failure.byte - 1);
    std::string reason = failure.what();
    if (const auto cut = reason.find(": "); cut != std::string::npos) reason.erase(0, cut + 2);
    return bad_input("{}: line {}, column {}: not valid JSON: {}", source, at.line, at.column,
                     reason);
  } catch (const Json::exception& failure) {
    return bad_input("{}: not valid JSON: {}", source, failure.what());
  }
}

Result<Json> read_json_file(const std::filesystem::path& path) {
  const std::string text = KV8_TRY(read_text_file(path, std::uint64_t{1} << 28));
  return parse_json(text, path.string());
}

Status write_json_file(const std::filesystem::path& path, const Json& value, int indent) {
  return write_text_file(path,
                         value.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n");
}

Result<std::int64_t> json_int(const Json& object, std::string_view key, std::string_view source,
                              std::int64_t min, std::int64_t max) {
  const Json* value = find(object, key);
  if (value == nullptr) return missing(key, source);
  return as_int(*value, key, source, min, max);
}

Result<std::int64_t> json_int_or(const Json& object, std::string_view key, std::string_view source,
                                 std::int64_t min, std::int64_t max, std::int64_t fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  return as_int(*value, key, source, min, max);
}

Result<double> json_number(const Json& object, std::string_view key, std::string_view source) {
  const Json* value = find(object, key);
  if (value == nullptr) return missing(key, source);
  return as_number(*value, key, source);
}

Result<double> json_number_or(const Json& object, std::string_view key, std::string_view source,
                              double fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  return as_number(*value, key, source);
}

Result<bool> json_bool_or(const Json& object, std::string_view key, std::string_view source,
                          bool fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    return bad_input("{}: field `{}` is {}, expected true or false", source, key, kind_of(*value));
  }
  return value->get<bool>();
}

Result<std::string> json_string(const Json& object, std::string_view key, std::string_view source) {
  const Json* value = find(object, key);
  if (value == nullptr) return missing(key, source);
  return as_string(*value, key, source);
}

Result<std::string> json_string_or(const Json& object, std::string_view key,
                                   std::string_view source, std::string_view fallback) {
  const Json* value = find(object, key);
  if (value == nullptr) return std::string(fallback);
  return as_string(*value, key, source);
}

}  // namespace kv8
