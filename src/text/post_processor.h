// The post-processor of tokenizer.json: special tokens before and behind a text.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace kv8::text {

struct PostProcessor {
  std::vector<TokenId> before, behind;

  /// TemplateProcessing (its `single` part), ByteLevel (which adds nothing) and Sequences of them;
  /// others are refused by name.
  static Result<PostProcessor> parse(const nlohmann::ordered_json& json, std::string_view source);

 private:
  Status add(const nlohmann::ordered_json& json, std::string_view source);
  Status add_template(const nlohmann::ordered_json& json, std::string_view source);
};

}  // namespace kv8::text
