// Renders chat templates.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/template_syntax.h"

namespace kv8::text {

/// What a template sees besides the messages. Dates (`strftime_now`, `date_string`) are not
/// defined, so that templates fall back on the date that they hold: the same text every day.
struct TemplateContext {
  std::optional<std::string> bos_token, eos_token;
  bool add_generation_prompt = false;
  bool enable_thinking = false;
};

/// The text of a conversation. An error is one that the template raises, or something in it that
/// is not supported; work and output are bounded.
Result<std::string> render_template(const Block& program, const std::vector<ChatMessage>& messages,
                                    const TemplateContext& context);

}  // namespace kv8::text
