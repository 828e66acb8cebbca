// tokenizer.json as read from disk.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/json.h"
#include "text/bpe.h"

namespace kv8::text {

struct TokenizerFile {
  Json rest;         ///< the document without model.vocab (if an object) and model.merges
  BpeTables tables;  ///< those two
};

Result<TokenizerFile> parse_tokenizer_file(std::string_view text, std::string_view source);

}  // namespace kv8::text
