// Cuts a template into text, {{ outputs }} and {% statements %}.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8::text {

struct TemplateToken {
  enum class Kind { kName, kString, kNumber, kOperator, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;
  std::int64_t number = 0;
};

struct TemplatePart {
  enum class Kind { kText, kOutput, kStatement };
  Kind kind;
  std::string text;                   // kText
  std::vector<TemplateToken> tokens;  // the others, with kEnd behind
};

Result<std::vector<TemplatePart>> lex_template(std::string_view source);

}  // namespace kv8::text
