#include "text/decoder.h"

#include <algorithm>

#include "base/json.h"
#include "text/byte_level.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

constexpr std::size_t kMaxSteps = 64;
constexpr std::string_view kBrokenCharacter = "\xEF\xBF\xBD";

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The byte that a token like <0x0A> stands for, or -1.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/// A run of byte tokens is text if all of it is; else each of its bytes is a broken character.
std::string text_of_bytes(std::string_view bytes) {
  if (is_valid_utf8(bytes)) return std::string(bytes);
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); ++i) out += kBrokenCharacter;
  return out;
}

/// Moves out of `bytes` what is complete; a character that is cut off stays.
std::string take_complete(std::string& bytes) {
  std::size_t end = bytes.size();
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, bytes.size()); ++back) {
    const std::size_t at = bytes.size() - back;
    if ((static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80) continue;
    if (next_utf8(bytes, at).kind == Utf8Kind::kIncomplete) end = at;
    break;
  }
  std::string out = replace_broken_utf8(std::string_view(bytes).substr(0, end));
  bytes.erase(0, end);
  return out;
}

}  // namespace

Result<DecoderChain> DecoderChain::parse(const Json& json, std::string_view source) {
  DecoderChain chain;
  if (json.is_null()) {
    Step join{};
    join.kind = Kind::kJoin;
    chain.steps_.push_back(std::move(join));
  } else {
    KV8_TRY(chain.add(json, source));
  }
  return chain;
}

Status DecoderChain::add(const Json& json, std::string_view source) {
  const std::string type = KV8_TRY(json_string(json, "type", source));
  Step step{};
  step.fused = std::any_of(steps_.begin(), steps_.end(), [](const Step& before) {
    return before.kind == Kind::kFuse || before.kind == Kind::kByteLevel;
  });
  if (type == "Sequence") {
    const auto list = json.find("decoders");
    if (list == json.end() || !list->is_array()) {
      return bad_input("{}: a Sequence needs the list `decoders`", source);
    }
    for (const Json& item : *list) KV8_TRY(add(item, source));
    return {};
  }
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.pattern = KV8_TRY(Pattern::parse(json.value("pattern", Json()), source));
    step.text = KV8_TRY(json_string(json, "content", source));
    growth_ *= step.pattern.growth(step.text);
  } else if (type == "Strip") {
    KV8_TRY(parse_strip(step, json, source));
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    step.pattern = KV8_TRY(Pattern::literal(
        KV8_TRY(json_string_or(json, "replacement", source, "\xE2\x96\x81")), source));
    const bool add_space = KV8_TRY(json_bool_or(json, "add_prefix_space", source, true));
    step.drop_first = KV8_TRY(json_string_or(json, "prepend_scheme", source,
                                             add_space ? "always" : "never")) != "never";
  } else {
    return unsupported(
        "{}: type `{}` is not supported (supported: ByteLevel, ByteFallback, Fuse, Replace, Strip, "
        "Metaspace, Sequence)",
        source, type);
  }
  const bool local = step.kind != Kind::kReplace || step.pattern.is_single_character();
  const bool per_token = step.kind == Kind::kByteLevel || step.kind == Kind::kByteFallback ||
                         step.kind == Kind::kMetaspace;
  if (step.fused && (!local || per_token)) {
    return unsupported("{}: type `{}` is not supported behind ByteLevel or Fuse", source, type);
  }
  if (growth_ > kMaxGrowth || steps_.size() >= kMaxSteps) {
    return bad_input("{}: the steps could make text grow more than {}-fold", source, kMaxGrowth);
  }
  steps_.push_back(std::move(step));
  return {};
}

Status DecoderChain::parse_strip(Step& step, const Json& json, std::string_view source) {
  step.kind = Kind::kStrip;
  step.text = KV8_TRY(json_string(json, "content", source));
  if (step.text.empty() || decode_utf8(step.text, 0).length != step.text.size()) {
    return bad_input("{}: Strip's `content` must be one character", source);
  }
  step.start = static_cast<std::size_t>(KV8_TRY(json_int(json, "start", source, 0, 1'000'000)));
  step.stop = static_cast<std::size_t>(KV8_TRY(json_int(json, "stop", source, 0, 1'000'000)));
  return {};
}

void DecoderChain::push(State& state, std::string token, std::string& out) const {
  state.resize(steps_.size());
  pass(0, state, std::move(token), out);
}

void DecoderChain::finish(State& state, std::string& out) const {
  state.resize(steps_.size());
  for (std::size_t index = 0; index < steps_.size(); ++index) release(index, state, out);
}

/// Gives `token` to the step `index` and on.
void DecoderChain::pass(std::size_t index, State& state, std::string token,
                        std::string& out) const {
  if (index == steps_.size()) {
    out += token;
    return;
  }
  const Step& step = steps_[index];
  StepState& at = state[index];
  switch (step.kind) {
    case Kind::kFuse:
      break;
    case Kind::kJoin:
      if (at.count++ > 0) token.insert(token.begin(), ' ');
      break;
    case Kind::kReplace:
      token = step.pattern.replace_all(token, step.text);
      break;
    case Kind::kByteLevel:
      append_token_bytes(at.held, token);
      token = take_complete(at.held);
      break;
    case Kind::kByteFallback:
      if (const int byte = fallback_byte(token); byte >= 0) {
        at.held.push_back(static_cast<char>(byte));
        return;
      }
      release(index, state, out);
      break;
    case Kind::kMetaspace:
      token = step.pattern.replace_all(token, at.count++ == 0 && step.drop_first ? "" : " ");
      break;
    case Kind::kStrip:
      if (!step.fused) at = StepState{};
      token = strip(step, at, std::move(token));
      if (!step.fused) at.held.clear();
      break;
  }
  if (!step.fused || !token.empty()) pass(index + 1, state, std::move(token), out);
}

/// Drops up to `start` leading and `stop` trailing characters. Trailing ones are held until it is
/// known that others follow.
std::string DecoderChain::strip(const Step& step, StepState& at, std::string token) {
  const std::size_t width = step.text.size();
  std::size_t begin = 0;
  while (at.stripping) {
    at.stripping = at.count < step.start && token.compare(begin, width, step.text) == 0;
    if (!at.stripping) break;
    begin += width;
    ++at.count;
    if (begin == token.size()) return "";
  }
  std::string text = std::move(at.held) + token.substr(begin);
  at.held.clear();
  std::size_t end = text.size();
  for (std::size_t n = 0; n < step.stop && end >= width; ++n) {
    if (text.compare(end - width, width, step.text) != 0) break;
    end -= width;
  }
  at.held = text.substr(end);
  text.resize(end);
  return text;
}

/// Passes on what step `index` held back, when nothing can complete it any more.
void DecoderChain::release(std::size_t index, State& state, std::string& out) const {
  std::string held = std::move(state[index].held);
  state[index].held.clear();
  if (held.empty() || steps_[index].kind == Kind::kStrip) return;
  pass(index + 1, state,
       steps_[index].kind == Kind::kByteLevel ? replace_broken_utf8(held) : text_of_bytes(held),
       out);
}

std::string DecoderChain::token_bytes(std::string_view token) const {
  std::string bytes(token);
  for (const Step& step : steps_) {
    if (step.kind == Kind::kReplace) {
      bytes = step.pattern.replace_all(bytes, step.text);
    } else if (step.kind == Kind::kMetaspace) {
      bytes = step.pattern.replace_all(bytes, " ");
    } else if (step.kind == Kind::kByteFallback) {
      if (const int byte = fallback_byte(bytes); byte >= 0) return {static_cast<char>(byte)};
    } else if (step.kind == Kind::kByteLevel) {
      std::string mapped;
      append_token_bytes(mapped, bytes);
      return mapped;
    }
  }
  return bytes;
}

bool DecoderChain::strips_leading_space() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return (step.kind == Kind::kMetaspace && step.drop_first) ||
           (step.kind == Kind::kStrip && step.fused && step.start > 0 && step.text == " ");
  });
}

}  // namespace kv8::text
