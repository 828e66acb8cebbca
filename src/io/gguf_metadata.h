// Typed look-ups in the metadata of a GGUF file; errors name the file and the key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace kv8::io {

class GgufMetadata {
 public:
  explicit GgufMetadata(const GgufFile& file)
      : entries_(file.metadata()), source_(file.path().string()) {}

  const std::string& source() const { return source_; }
  bool has(std::string_view key) const { return entries_.find(key) != entries_.end(); }

  /// Missing keys are errors for the plain forms and `fallback` for the others.
  Result<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  Result<std::int64_t> integer_or(std::string_view key, std::int64_t min, std::int64_t max,
                                  std::int64_t fallback) const;
  /// A finite number; one stored in FP32 becomes the shortest decimal that rounds to it.
  Result<double> number(std::string_view key) const;
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<bool> flag_or(std::string_view key, bool fallback) const;
  Result<std::string> string(std::string_view key) const;
  Result<std::string> string_or(std::string_view key, std::string_view fallback) const;
  /// Arrays: nullptr where the key is missing.
  Result<const std::vector<std::string>*> strings(std::string_view key) const;
  Result<const std::vector<std::int64_t>*> integers(std::string_view key) const;
  Result<const std::vector<double>*> numbers(std::string_view key) const;

 private:
  const GgufValue* find(std::string_view key) const;
  Error missing(std::string_view key) const;
  Error wrong_type(std::string_view key, std::string_view expected) const;
  template <typename T>
  Result<const std::vector<T>*> array(std::string_view key, std::string_view expected) const;

  const std::map<std::string, GgufValue, std::less<>>& entries_;
  std::string source_;
};

}  // namespace kv8::io
