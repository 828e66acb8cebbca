// RoPE fields of config.json. Include only in .cpp files.
#pragma once

#include <string_view>

#include "base/json.h"
#include "ops/rope.h"

namespace kv8::io {

/// `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5), which
/// wins where both are there. Kinds default, linear, dynamic, llama3 and yarn; others are refused.
/// head_dim and max_position are left to the caller.
Result<RopeConfig> parse_rope_config(const Json& config, std::string_view source);

}  // namespace kv8::io
