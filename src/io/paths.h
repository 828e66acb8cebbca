#pragma once

#include <filesystem>

namespace kv8::io {

/// Whether the path leads somewhere; what cannot be looked at counts as absent.
inline bool path_exists(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace kv8::io
