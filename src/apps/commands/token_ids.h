// Token ids from a file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::apps {

/// A non-empty JSON array of ids, each from 0 to vocab_size - 1.
Result<std::vector<std::int32_t>> read_token_ids(const std::string& file, std::int32_t vocab_size);

}  // namespace kv8::apps
