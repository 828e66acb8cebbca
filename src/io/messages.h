#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace kv8::io {

/// A name out of an untrusted file, fit for a one-line message: control characters escaped, and
/// cut after 120 bytes.
inline std::string printable(std::string_view name) {
  constexpr std::size_t kMaxBytes = 120;
  std::string text;
  for (const char c : name.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  return name.size() > kMaxBytes ? text + "..." : text;
}

}  // namespace kv8::io
