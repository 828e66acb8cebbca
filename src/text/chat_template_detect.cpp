// Takes a chat template apart: renders it for probe conversations, reads prefixes and suffixes off
// the text around the probes' contents, and accepts the result only if it makes the same text as
// the template for every probe.
#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/json.h"
#include "text/chat_template.h"
#include "text/template_render.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

using Messages = std::vector<ChatMessage>;

constexpr std::uint64_t kMaxTemplateFileBytes = 1 << 20;
constexpr std::string_view kAdvice =
    "write a processed_chat_template.json by hand beside the checkpoint (docs/text.md shows how), "
    "or send requests with `apply_chat_template: false`";

const ChatMessage kSystem{"system", "kv8probeSystem"};
const ChatMessage kUser{"user", "kv8probeUser"};
const ChatMessage kAnswer{"assistant", "kv8probeAnswer"};
const ChatMessage kUser2{"user", "kv8probeSecond"};

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}
bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}
std::string without_start(const std::string& text, std::string_view start) {
  return text.substr(start.size());
}
std::string without_end(const std::string& text, std::string_view end) {
  return text.substr(0, text.size() - end.size());
}

class Detector {
 public:
  Detector(const Block& program, const std::optional<std::string>& bos,
           const std::optional<std::string>& eos)
      : program_(program) {
    context_.bos_token = bos;
    context_.eos_token = eos;
  }

  Result<ChatTemplate> run() {
    KV8_TRY(find_turns());
    KV8_TRY(check_family());
    KV8_TRY(find_generation_prompt());
    find_content_rules();
    Error last = unsupported("it takes no system message in a known way");
    for (const SystemPlacement placement :
         {SystemPlacement::kOwnBlock, SystemPlacement::kFirstUser, SystemPlacement::kLastMessage,
          SystemPlacement::kNone}) {
      ChatTemplate candidate = found_;
      candidate.system_placement = placement;
      if (!find_system(candidate).ok()) continue;
      candidate.system.trim = drops_outer_space(kSystem, {kUser}, {});
      const Status same = verify(candidate);
      if (same.ok()) return candidate;
      last = same.error();
    }
    return last;
  }

 private:
  Result<std::string> render(const Messages& messages, bool generation, bool thinking) const {
    TemplateContext context = context_;
    context.add_generation_prompt = generation;
    context.enable_thinking = thinking;
    return render_template(program_, messages, context);
  }

  /// The text before, between and behind the contents, each of which must occur once, in order.
  Result<std::vector<std::string>> around(const Messages& messages,
                                          const std::vector<std::string>& contents) const {
    const std::string text = KV8_TRY(render(messages, false, true));
    std::vector<std::string> parts;
    std::size_t done = 0;
    for (const std::string& content : contents) {
      const std::size_t at = text.find(content, done);
      if (at == std::string::npos || text.find(content) != at || text.rfind(content) != at) {
        return unsupported("it does not show every message once");
      }
      parts.push_back(text.substr(done, at - done));
      done = at + content.size();
    }
    parts.push_back(text.substr(done));
    return parts;
  }

  Status find_turns() {
    const auto three =
        KV8_TRY(around({kUser, kAnswer, kUser2}, {kUser.content, kAnswer.content, kUser2.content}));
    const auto two = KV8_TRY(around({kUser, kAnswer}, {kUser.content, kAnswer.content}));
    std::string behind_user = three[3], behind_answer = two[2];
    // Templates that ask for an answer without being told to do so for no messages at all, too.
    const Result<std::string> alone = render({}, false, true);
    if (alone.ok() && !alone->empty() && ends_with(behind_user, *alone) &&
        ends_with(behind_answer, *alone)) {
      found_.always_generation_prompt = true;
      found_.generation_prompt = *alone;
      behind_user = without_end(behind_user, *alone);
      behind_answer = without_end(behind_answer, *alone);
    }
    if (!starts_with(three[1], behind_user) || !starts_with(three[2], behind_answer)) {
      return unsupported("what it puts behind a message depends on the next one");
    }
    found_.user.suffix = behind_user;
    found_.assistant.suffix = behind_answer;
    found_.assistant.prefix = without_start(three[1], behind_user);
    found_.user.prefix = without_start(three[2], behind_answer);
    if (!ends_with(three[0], found_.user.prefix)) {
      return unsupported("it puts something else before the first message than before later ones");
    }
    head_ = without_end(three[0], found_.user.prefix);
    found_.alternating = !render({kUser, kUser2}, false, true).ok();
    return {};
  }

  Status check_family() const {
    const RoleAffixes &user = found_.user, &assistant = found_.assistant;
    const bool chatml = user.prefix == "<|im_start|>user\n" && user.suffix == "<|im_end|>\n" &&
                        assistant.prefix == "<|im_start|>assistant\n" &&
                        assistant.suffix == "<|im_end|>\n";
    const bool llama3 = user.prefix == "<|start_header_id|>user<|end_header_id|>\n\n" &&
                        user.suffix == "<|eot_id|>" &&
                        assistant.prefix == "<|start_header_id|>assistant<|end_header_id|>\n\n" &&
                        assistant.suffix == "<|eot_id|>";
    const bool mistral = user.prefix.find("[INST]") != std::string::npos &&
                         user.suffix.find("[/INST]") != std::string::npos;
    if (chatml || llama3 || mistral) return {};
    return unsupported("its markers are not those of ChatML, Llama 3 or Mistral");
  }

  Status find_generation_prompt() {
    const std::string plain = KV8_TRY(render({kUser}, false, true));
    const std::string asked = KV8_TRY(render({kUser}, true, true));
    const std::string quiet = KV8_TRY(render({kUser}, true, false));
    if (found_.always_generation_prompt) return {};
    if (!starts_with(asked, plain) || !starts_with(quiet, plain)) {
      return unsupported("asking for an answer changes the text before it");
    }
    found_.generation_prompt = without_start(asked, plain);
    if (quiet != asked) found_.generation_prompt_no_think = without_start(quiet, plain);
    return {};
  }

  /// Whether white space around a message's content is dropped.
  bool drops_outer_space(ChatMessage message, const Messages& behind,
                         const Messages& before) const {
    const std::string padded = " \n" + message.content + "\t \n";
    message.content = padded;
    Messages messages = before;
    messages.push_back(message);
    messages.insert(messages.end(), behind.begin(), behind.end());
    const Result<std::string> text = render(messages, false, true);
    return text.ok() && text->find(padded) == std::string::npos;
  }

  void find_content_rules() {
    found_.user.trim = drops_outer_space(kUser, {}, {});
    found_.assistant.trim = drops_outer_space(kAnswer, {kUser2}, {kUser});
    const ChatMessage thinker{"assistant", "<think>\nkv8probeThought\n</think>\n\nkv8probeAnswer"};
    const Result<std::string> text = render({kUser, thinker, kUser2}, false, true);
    if (text.ok() && text->find("kv8probeThought") == std::string::npos) {
      found_.thinking_history = ThinkingHistory::kQwen3;
      found_.assistant.trim = false;
    }
  }

  Status find_system(ChatTemplate& candidate) const {
    if (candidate.system_placement == SystemPlacement::kNone) {
      candidate.conversation_prefix = head_;
      return render({kSystem, kUser}, false, true).ok() ? unsupported("it takes system messages")
                                                        : Status();
    }
    const auto parts = KV8_TRY(around({kSystem, kUser}, {kSystem.content, kUser.content}));
    const std::string &before = parts[0], &between = parts[1];
    if (candidate.system_placement != SystemPlacement::kOwnBlock) {
      candidate.conversation_prefix = head_;
      const std::string start = head_ + candidate.user.prefix;
      if (!starts_with(before, start)) return unsupported("the system message is elsewhere");
      candidate.system.prefix = without_start(before, start);
      candidate.system.suffix = between;
      return {};
    }
    if (!ends_with(between, candidate.user.prefix)) {
      return unsupported("the system message has no block of its own");
    }
    candidate.system.suffix = without_end(between, candidate.user.prefix);
    if (starts_with(before, head_)) {
      candidate.conversation_prefix = head_;
      candidate.system.prefix = without_start(before, head_);
      return {};
    }
    // Something stands in for the system message that is not there.
    const std::string bos = context_.bos_token.value_or("");
    if (starts_with(before, bos) && starts_with(head_, bos)) candidate.conversation_prefix = bos;
    candidate.system.prefix = without_start(before, candidate.conversation_prefix);
    const std::string& suffix = candidate.system.suffix;
    if (!starts_with(head_, before) || !ends_with(head_, suffix) ||
        head_.size() < before.size() + suffix.size()) {
      return unsupported("its default system message is framed otherwise than a given one");
    }
    candidate.default_system_prompt = without_end(without_start(head_, before), suffix);
    candidate.always_system = candidate.default_system_prompt.empty();
    return {};
  }

  /// Conversations that differ in all that a template may look at.
  static std::vector<Messages> probes() {
    const auto say = [](std::string role, std::string content) {
      return ChatMessage{std::move(role), std::move(content)};
    };
    const ChatMessage thought = say("assistant", "<think>\nHm.\n\n</think>\n\n\nSo.\n");
    const ChatMessage answered = say("assistant", "\n\n Yes. \n");
    const ChatMessage padded = say("user", "\n\t 'a' \"b\" {{ c }} \n\n");
    return {{kUser},
            {kSystem, kUser},
            {kUser, kAnswer},
            {kSystem, kUser, kAnswer},
            {kUser, kAnswer, kUser2},
            {kSystem, kUser, kAnswer, kUser2},
            {kSystem, kUser, kAnswer, kUser2, kAnswer, kUser},
            {say("user", "")},
            {say("system", ""), kUser},
            {kUser, say("assistant", ""), kUser2},
            {say("system", " \n kind \t\n"), padded, answered, padded},
            {padded, answered},
            {kUser, thought},
            {kUser, thought, kUser2},
            {kUser, thought, kUser2, thought},
            {kUser, kUser2},
            {kUser, kAnswer, thought},
            {kUser, thought, answered},
            {kUser, say("assistant", "a</think>b<think>c</think>\nd")},
            {kUser, say("assistant", "a</think>b<think>c</think>\nd"), kUser2}};
  }

  Status verify(const ChatTemplate& candidate) const {
    for (const Messages& messages : probes()) {
      for (const bool generation : {false, true}) {
        for (const bool thinking : {false, true}) {
          const Result<std::string> wanted = render(messages, generation, thinking);
          const Result<std::string> made = candidate.format(messages, generation, thinking);
          const bool same = wanted.ok() && made.ok() ? *wanted == *made : wanted.ok() == made.ok();
          if (same) continue;
          return unsupported("prefixes and suffixes do not give what it gives for {} messages",
                             messages.size());
        }
      }
    }
    return {};
  }

  const Block& program_;
  TemplateContext context_;
  ChatTemplate found_;
  std::string head_;  // what stands before the first user message's prefix
};

/// A special token of tokenizer_config.json: a string, or an object with `content`.
std::optional<std::string> special_token(const Json& config, const char* name) {
  const auto token = config.find(name);
  if (token == config.end()) return std::nullopt;
  if (token->is_string()) return token->get<std::string>();
  if (!token->is_object()) return std::nullopt;
  const auto content = token->find("content");
  if (content == token->end() || !content->is_string()) return std::nullopt;
  return content->get<std::string>();
}

/// The `chat_template` field: one template, or a list of named ones of which "default" counts.
Result<std::string> template_field(const Json& config, const std::string& source) {
  const auto field = config.find("chat_template");
  if (field != config.end() && field->is_string()) return field->get<std::string>();
  if (field != config.end() && field->is_array()) {
    for (const Json& item : *field) {
      if (!item.is_object() || item.value("name", Json()) != "default") continue;
      return json_string(item, "template", source);
    }
  }
  return not_found("{}: there is no chat template: {}", source, kAdvice);
}

}  // namespace

Result<ChatTemplate> process_chat_template_source(std::string_view source,
                                                  const std::optional<std::string>& bos_token,
                                                  const std::optional<std::string>& eos_token,
                                                  std::string_view source_name) {
  const auto refuse = [&](const Error& why) {
    return unsupported("{}: this chat template cannot be used: {}. Instead, {}", source_name,
                       why.message, kAdvice);
  };
  const Result<Block> program = parse_template(source);
  if (!program.ok()) return refuse(program.error());
  Result<ChatTemplate> found = Detector(*program, bos_token, eos_token).run();
  if (!found.ok()) return refuse(found.error());
  return found;
}

Result<ChatTemplate> process_chat_template(const std::filesystem::path& dir) {
  const std::filesystem::path by_hand = dir / "processed_chat_template.json";
  const std::filesystem::path file = dir / "chat_template.jinja";
  const std::filesystem::path config_file = dir / "tokenizer_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(by_hand, ignored)) return read_chat_template(by_hand);
  Json config = Json::object();
  if (std::filesystem::exists(config_file, ignored)) config = KV8_TRY(read_json_file(config_file));
  if (!config.is_object()) return bad_input("{}: must hold a JSON object", config_file.string());
  const bool has_file = std::filesystem::exists(file, ignored);
  const std::string name = (has_file ? file : config_file).string();
  const std::string source = has_file ? KV8_TRY(read_text_file(file, kMaxTemplateFileBytes))
                                      : KV8_TRY(template_field(config, name));
  ChatTemplate value = KV8_TRY(process_chat_template_source(
      source, special_token(config, "bos_token"), special_token(config, "eos_token"), name));
  value.model_path = dir.string();
  return value;
}

}  // namespace kv8::text
