// processed_chat_template.json: the contract's fields and, beside them, ours (all optional).
#include "base/json.h"
#include "text/chat_template.h"

namespace kv8::text {
namespace {

constexpr std::pair<SystemPlacement, std::string_view> kPlacements[] = {
    {SystemPlacement::kOwnBlock, "own_block"},
    {SystemPlacement::kFirstUser, "first_user_message"},
    {SystemPlacement::kLastMessage, "last_message"},
    {SystemPlacement::kNone, "none"}};
constexpr std::pair<ThinkingHistory, std::string_view> kHistories[] = {
    {ThinkingHistory::kKept, "kept"}, {ThinkingHistory::kQwen3, "qwen3"}};

template <typename Enum, std::size_t N>
std::string name_of(const std::pair<Enum, std::string_view> (&names)[N], Enum value) {
  for (const auto& [known, name] : names) {
    if (known == value) return std::string(name);
  }
  return "";
}

template <typename Enum, std::size_t N>
Status read_name(const std::pair<Enum, std::string_view> (&names)[N], const Json& json,
                 std::string_view key, std::string_view source, Enum& out) {
  const std::string text = KV8_TRY(json_string_or(json, key, source, name_of(names, out)));
  std::string known_names;
  for (const auto& [known, name] : names) {
    if (name == text) {
      out = known;
      return {};
    }
    known_names += (known_names.empty() ? "" : ", ") + std::string(name);
  }
  return bad_input("{}: field `{}` is `{}`, expected one of: {}", source, key, text, known_names);
}

Result<RoleAffixes> read_role(const Json& roles, const std::string& name, std::string_view source) {
  const auto role = roles.find(name);
  if (role == roles.end() || !role->is_object()) {
    return bad_input("{}: field `roles.{}` is missing", source, name);
  }
  const std::string where = fmt::format("{}: roles.{}", source, name);
  RoleAffixes affixes;
  affixes.prefix = KV8_TRY(json_string(*role, "prefix", where));
  affixes.suffix = KV8_TRY(json_string(*role, "suffix", where));
  affixes.trim = KV8_TRY(json_bool_or(*role, "trim_content", where, false));
  return affixes;
}

Json role_json(const RoleAffixes& role) {
  return {{"prefix", role.prefix}, {"suffix", role.suffix}, {"trim_content", role.trim}};
}

}  // namespace

Result<ChatTemplate> read_chat_template(const std::filesystem::path& file) {
  const std::string source = file.string();
  const Json json = KV8_TRY(read_json_file(file));
  const auto roles = json.is_object() ? json.find("roles") : json.end();
  if (!json.is_object() || roles == json.end() || !roles->is_object()) {
    return bad_input("{}: field `roles` is missing", source);
  }
  ChatTemplate value;
  value.system = KV8_TRY(read_role(*roles, "system", source));
  value.user = KV8_TRY(read_role(*roles, "user", source));
  value.assistant = KV8_TRY(read_role(*roles, "assistant", source));
  value.model_path = KV8_TRY(json_string_or(json, "model_path", source, ""));
  value.generation_prompt = KV8_TRY(json_string(json, "generation_prompt", source));
  value.generation_prompt_no_think =
      KV8_TRY(json_string_or(json, "generation_prompt_no_think", source, ""));
  value.default_system_prompt = KV8_TRY(json_string_or(json, "default_system_prompt", source, ""));
  value.always_system = KV8_TRY(json_bool_or(json, "always_system", source, false));
  value.conversation_prefix = KV8_TRY(json_string_or(json, "conversation_prefix", source, ""));
  KV8_TRY(read_name(kPlacements, json, "system_placement", source, value.system_placement));
  KV8_TRY(read_name(kHistories, json, "thinking_history", source, value.thinking_history));
  value.always_generation_prompt =
      KV8_TRY(json_bool_or(json, "always_generation_prompt", source, false));
  value.alternating = KV8_TRY(json_bool_or(json, "alternating", source, false));
  return value;
}

Status write_chat_template(const ChatTemplate& value, const std::filesystem::path& file) {
  const Json json = {{"model_path", value.model_path},
                     {"roles",
                      {{"system", role_json(value.system)},
                       {"user", role_json(value.user)},
                       {"assistant", role_json(value.assistant)}}},
                     {"content_types", Json::object()},
                     {"generation_prompt", value.generation_prompt},
                     {"default_system_prompt", value.default_system_prompt},
                     {"generation_prompt_no_think", value.generation_prompt_no_think},
                     {"always_system", value.always_system},
                     {"conversation_prefix", value.conversation_prefix},
                     {"system_placement", name_of(kPlacements, value.system_placement)},
                     {"thinking_history", name_of(kHistories, value.thinking_history)},
                     {"always_generation_prompt", value.always_generation_prompt},
                     {"alternating", value.alternating}};
  return write_json_file(file, json);
}

}  // namespace kv8::text
