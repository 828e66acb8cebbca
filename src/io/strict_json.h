// JSON of files that list tensors: may be long, so look-ups must not be linear, and must not name
// one thing twice. Include only in .cpp files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kv8::io {

/// An object with sorted keys. kv8::Json keeps the order of keys, and pays for it with look-ups
/// that walk the object, too slow for objects of many thousands of keys.
using MapJson = nlohmann::json;

/// Parses one JSON object. Duplicate keys and nesting deeper than `max_depth` are errors; memory
/// stays proportional to the text. Errors name `source` and the byte.
Result<MapJson> parse_strict_json(std::string_view text, std::string_view source, int max_depth);

}  // namespace kv8::io
