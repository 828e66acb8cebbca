// The parts of import_gguf. Include only in .cpp files.
#pragma once

#include <string>

#include "base/json.h"
#include "base/progress.h"
#include "io/gguf.h"

namespace kv8::io {

/// config.json of the imported model, in FP16. Architectures llama, qwen2, qwen3. Whether its
/// numbers are in bounds is left to parse_model_config.
Result<Json> imported_config(const GgufFile& file);

/// generation_config.json: the token ids of `config`.
Json imported_generation_config(const Json& config);

struct ImportedTokenizer {
  std::string tokenizer_json;  ///< a string, as Json is slow for objects of a vocabulary's size
  Json tokenizer_config;
};

/// tokenizer.json and tokenizer_config.json. `config` is imported_config's, checked.
Result<ImportedTokenizer> imported_tokenizer(const GgufFile& file, const Json& config,
                                             const Reporter& reporter);

}  // namespace kv8::io
