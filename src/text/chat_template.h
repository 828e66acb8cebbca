// Chat templates as prefixes and suffixes per role: processed_chat_template.json.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8::text {

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

struct RoleAffixes {
  std::string prefix, suffix;
};

/// The file's fields; see docs for what goes where.
struct ChatTemplate {
  std::string model_path;
  RoleAffixes system, user, assistant;
  std::string generation_prompt;           ///< appended when an answer is asked for
  std::string generation_prompt_no_think;  ///< Qwen3 with thinking off; empty: same as above
  std::string default_system_prompt;       ///< used where a conversation has no system message

  /// Text of a conversation. Errors name the message: unknown role, system message not first.
  Result<std::string> format(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                             bool enable_thinking) const;
  /// The leading part of format() that the system message alone makes (for KV reuse); "" if none.
  std::string format_system(const std::vector<ChatMessage>& messages) const;
};

/// Recognises the chat template of `dir` (tokenizer_config.json's `chat_template`, or
/// chat_template.jinja): ChatML, Llama 3, Mistral, Qwen2.5, Qwen3. Unknown templates are refused
/// with what to do instead (write processed_chat_template.json by hand, or
/// `apply_chat_template: false`).
Result<ChatTemplate> process_chat_template(const std::filesystem::path& dir);

Result<ChatTemplate> read_chat_template(const std::filesystem::path& file);
Status write_chat_template(const ChatTemplate& value, const std::filesystem::path& file);

}  // namespace kv8::text
