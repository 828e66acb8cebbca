// Shared by the tests of text: the golden files and a folder that removes itself.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/json.h"

namespace kv8::text {

inline std::filesystem::path data_path(const std::string& name) {
  return std::filesystem::path(KV8_TEST_DATA) / name;
}

inline Json golden(const std::string& name) {
  return read_json_file(data_path("golden/" + name)).value();
}

/// The folder with SmolLM2's tokenizer, if this machine has it.
inline std::optional<std::filesystem::path> smollm2_dir() {
  const char* named = std::getenv("KV8_SMOLLM2_DIR");
  const std::filesystem::path dir = named != nullptr ? std::filesystem::path(named)
                                                     : std::filesystem::path(KV8_SOURCE_DIR) /
                                                           "build/models/SmolLM2-135M-Instruct";
  if (!std::filesystem::exists(dir / "tokenizer.json")) return std::nullopt;
  return dir;
}

class TemporaryDir {
 public:
  TemporaryDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kv8-text-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~TemporaryDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace kv8::text
