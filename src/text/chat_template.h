// Chat templates as prefixes and suffixes per role: processed_chat_template.json.
#pragma once

#include <filesystem>
#include <optional>
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
  bool trim = false;  ///< white space around the content (and a system message in it) is dropped
};

/// Where a system message goes.
enum class SystemPlacement {
  kOwnBlock,     ///< prefix + content + suffix in front of the conversation
  kFirstUser,    ///< in the first user message, between that one's prefix and its content (Mistral)
  kLastMessage,  ///< likewise in the last message, if a user's; else it is left out (Mistral v3)
  kNone,         ///< the family has none
};

/// What becomes of <think>…</think> in earlier answers.
enum class ThinkingHistory {
  kKept,
  kQwen3,  ///< dropped before the last user message; behind it, blocks are set anew
};

/// The fields of processed_chat_template.json; docs/text.md says what goes where.
struct ChatTemplate {
  std::string model_path;
  RoleAffixes system, user, assistant;
  std::string generation_prompt;           ///< appended when an answer is asked for
  std::string generation_prompt_no_think;  ///< Qwen3 with thinking off; empty: same as above
  std::string default_system_prompt;       ///< used where a conversation has no system message
  /// The default system prompt is put even if it is empty (Llama 3.1).
  bool always_system = false;
  std::string conversation_prefix;  ///< before everything (BOS)
  SystemPlacement system_placement = SystemPlacement::kOwnBlock;
  ThinkingHistory thinking_history = ThinkingHistory::kKept;
  bool always_generation_prompt = false;  ///< appended even if no answer is asked for
  bool alternating = false;               ///< user and assistant must take turns, the user first

  /// Text of a conversation. It holds BOS and the like where the template does, so encode it
  /// without adding special tokens. Errors name the message: unknown role, system message not
  /// first, turns out of order.
  Result<std::string> format(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                             bool enable_thinking) const;
  /// The leading part of format() that the system message alone makes (for KV reuse); "" if none.
  std::string format_system(const std::vector<ChatMessage>& messages) const;
};

/// The chat template of `dir`: processed_chat_template.json if it is there, else
/// chat_template.jinja or tokenizer_config.json's `chat_template`, which is rendered for probe
/// conversations and taken apart. It must be of a known family (ChatML with Qwen2.5, Qwen3 and
/// SmolLM2, Llama 3, Mistral) and equal its own rendering on all probes. Others are refused
/// (kUnsupported; kNotFound where there is no template) with what to do instead: write
/// processed_chat_template.json by hand, or `apply_chat_template: false`.
Result<ChatTemplate> process_chat_template(const std::filesystem::path& dir);

/// The same from a template's source. `source_name` names it in errors.
Result<ChatTemplate> process_chat_template_source(std::string_view source,
                                                  const std::optional<std::string>& bos_token,
                                                  const std::optional<std::string>& eos_token,
                                                  std::string_view source_name);

Result<ChatTemplate> read_chat_template(const std::filesystem::path& file);
Status write_chat_template(const ChatTemplate& value, const std::filesystem::path& file);

}  // namespace kv8::text
