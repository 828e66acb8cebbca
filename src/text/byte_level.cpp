#include "text/byte_level.h"

#include <array>
#include <cstdint>

#include "text/unicode.h"

namespace kv8::text {
namespace {

struct Table {
  std::array<std::string, 256> character;
  std::array<std::int16_t, 0x180> byte;  // by code point; -1: not in the table

  Table() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      const char32_t code = printable ? static_cast<char32_t>(b) : next++;
      append_utf8(character[static_cast<std::size_t>(b)], code);
      byte[code] = static_cast<std::int16_t>(b);
    }
  }
};

const Table& table() {
  static const Table instance;
  return instance;
}

}  // namespace

void append_byte_characters(std::string& out, std::string_view bytes) {
  const Table& map = table();
  for (const char c : bytes) out += map.character[static_cast<unsigned char>(c)];
}

void append_token_bytes(std::string& out, std::string_view token) {
  const Table& map = table();
  const std::size_t before = out.size();
  for (std::size_t at = 0; at < token.size();) {
    const CodePoint c = decode_utf8(token, at);
    if (c.value >= map.byte.size() || map.byte[c.value] < 0) {
      out.resize(before);
      out += token;
      return;
    }
    out.push_back(static_cast<char>(map.byte[c.value]));
    at += c.length;
  }
}

}  // namespace kv8::text
