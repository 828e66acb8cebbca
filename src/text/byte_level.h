// GPT-2's table between bytes and printable characters, in which byte-level vocabularies are
// written: bytes that are printable in Latin-1 stand for themselves, the other 68 are U+0100 and
// on, in order.
#pragma once

#include <string>
#include <string_view>

namespace kv8::text {

/// Appends the characters that stand for the bytes of `bytes`.
void append_byte_characters(std::string& out, std::string_view bytes);
/// Appends the bytes of a token; a token with a character outside the table is taken as it is.
void append_token_bytes(std::string& out, std::string_view token);

}  // namespace kv8::text
