#include "text/chat_template.h"

#include <algorithm>

#include "text/template_value.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

std::string content_of(const RoleAffixes& role, const std::string& content) {
  return role.trim ? python_strip(content) : content;
}

/// An assistant's message as Qwen3 shows it again. `keeps_thought`: it stands behind the last user
/// message, as the last one or with a thought of its own.
std::string qwen3_history(const std::string& content, bool behind_last_user, bool is_last) {
  const std::string open = "<think>", close = "</think>";
  std::string thought, answer = content;
  if (const std::size_t first = content.find(close); first != std::string::npos) {
    thought = python_strip(content.substr(0, first), "\n", false, true);
    if (const std::size_t start = thought.rfind(open); start != std::string::npos) {
      thought.erase(0, start + open.size());
    }
    thought = python_strip(thought, "\n", true, false);
    answer = python_strip(content.substr(content.rfind(close) + close.size()), "\n", true, false);
  }
  if (!behind_last_user || !(is_last || !thought.empty())) return answer;
  return open + "\n" + python_strip(thought, "\n", true, true) + "\n" + close + "\n\n" +
         python_strip(answer, "\n", true, false);
}

bool starts_with_system(const std::vector<ChatMessage>& messages) {
  return !messages.empty() && messages.front().role == "system";
}

Status check_turns(const std::vector<ChatMessage>& messages, bool alternating, bool has_system) {
  const std::size_t first = starts_with_system(messages) ? 1 : 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    const std::size_t number = i + 1;
    if (role == "system" && i > 0) {
      return bad_input("message {}: a system message must come first", number);
    }
    if (role == "system" && !has_system) {
      return unsupported("message {}: this model's chat template takes no system message", number);
    }
    if (role == "system") continue;
    if (role != "user" && role != "assistant") {
      return bad_input("message {}: unknown role `{}`, expected system, user or assistant", number,
                       role);
    }
    if (alternating && (role == "user") != ((i - first) % 2 == 0)) {
      return bad_input("message {}: role `{}`, but user and assistant must take turns, user first",
                       number, role);
    }
  }
  return {};
}

}  // namespace

std::string ChatTemplate::format_system(const std::vector<ChatMessage>& messages) const {
  const bool given = starts_with_system(messages);
  if (system_placement == SystemPlacement::kOwnBlock) {
    if (!given && default_system_prompt.empty() && !always_system) return "";
    return conversation_prefix + system.prefix +
           (given ? content_of(system, messages.front().content) : default_system_prompt) +
           system.suffix;
  }
  const bool user_follows = messages.size() > 1 && messages[1].role == "user";
  if (system_placement == SystemPlacement::kFirstUser && given && user_follows) {
    const std::string block =
        system.prefix + content_of(system, messages.front().content) + system.suffix;
    // Where the content is trimmed together with the block, the block's end is not settled yet.
    const std::string settled = user.trim ? python_strip(block) : block;
    return conversation_prefix + user.prefix + settled;
  }
  return "";
}

Result<std::string> ChatTemplate::format(const std::vector<ChatMessage>& messages,
                                         bool add_generation_prompt, bool enable_thinking) const {
  if (messages.empty()) return bad_input("a conversation needs at least one message");
  KV8_TRY(check_turns(messages, alternating, system_placement != SystemPlacement::kNone));
  const bool given = starts_with_system(messages);
  const std::size_t first = given ? 1 : 0;
  std::size_t last_user = 0;
  bool has_user = false;
  for (std::size_t i = first; i < messages.size(); ++i) {
    if (messages[i].role != "user") continue;
    last_user = i;
    has_user = true;
  }
  std::string text = conversation_prefix;
  if (system_placement == SystemPlacement::kOwnBlock) {
    text = format_system(messages);
    if (text.empty()) text = conversation_prefix;
  }
  for (std::size_t i = first; i < messages.size(); ++i) {
    const std::string& content = messages[i].content;
    const bool is_last = i + 1 == messages.size();
    if (messages[i].role == "assistant") {
      const bool qwen3 = thinking_history == ThinkingHistory::kQwen3;
      text += assistant.prefix;
      text += qwen3 ? qwen3_history(content, has_user && i > last_user, is_last)
                    : content_of(assistant, content);
      text += assistant.suffix;
      continue;
    }
    std::string body;
    const bool takes_system = (system_placement == SystemPlacement::kFirstUser && i == first) ||
                              (system_placement == SystemPlacement::kLastMessage && is_last);
    if (given && takes_system) {
      body = system.prefix + content_of(system, messages.front().content) + system.suffix;
    }
    text += user.prefix + content_of(user, body + content) + user.suffix;
  }
  if (add_generation_prompt || always_generation_prompt) {
    const bool quiet = !enable_thinking && !generation_prompt_no_think.empty();
    text += quiet ? generation_prompt_no_think : generation_prompt;
  }
  return text;
}

}  // namespace kv8::text
