// JSON documents from untrusted files. Include only in .cpp files: nlohmann/json is heavy.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8 {

/// Keeps the order of keys, so that written files read like the ones they came from.
using Json = nlohmann::ordered_json;

/// Parses `text`; an error names `source`, line and column. Nesting is limited to 64 levels, an
/// object to 10,000 keys, and duplicate keys keep the last value.
Result<Json> parse_json(std::string_view text, std::string_view source);
Result<Json> read_json_file(const std::filesystem::path& path);
Status write_json_file(const std::filesystem::path& path, const Json& value, int indent = 2);

/// Typed look-ups in an object. `source` names the file in errors. A missing key is an error for
/// the plain form and `fallback` for the other; a null counts as missing there.
Result<std::int64_t> json_int(const Json& object, std::string_view key, std::string_view source,
                              std::int64_t min, std::int64_t max);
Result<std::int64_t> json_int_or(const Json& object, std::string_view key, std::string_view source,
                                 std::int64_t min, std::int64_t max, std::int64_t fallback);
Result<double> json_number(const Json& object, std::string_view key, std::string_view source);
Result<double> json_number_or(const Json& object, std::string_view key, std::string_view source,
                              double fallback);
Result<bool> json_bool_or(const Json& object, std::string_view key, std::string_view source,
                          bool fallback);
Result<std::string> json_string(const Json& object, std::string_view key, std::string_view source);
Result<std::string> json_string_or(const Json& object, std::string_view key,
                                   std::string_view source, std::string_view fallback);

}  // namespace kv8
