#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "base/json.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

// An expression that needs more than this is hostile or broken: real ones need a few steps per
// character.
constexpr std::uint32_t kMatchLimit = 20'000'000;
constexpr std::uint32_t kHeapLimitKiB = 64 * 1024;
constexpr std::size_t kMaxExpressionBytes = 64 * 1024;
constexpr std::size_t kJitStackBytes = 1 << 20;

/// What one thread needs to match; made once, since patterns run on very many short pieces.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);

  Scratch() {
    if (data == nullptr || context == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKiB);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

Scratch& scratch() {
  static thread_local Scratch instance;
  return instance;
}

}  // namespace

struct Pattern::Code {
  pcre2_code* code;
  explicit Code(pcre2_code* value) : code(value) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  int match(std::string_view subject, std::size_t start) const {
    const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
    Scratch& with = scratch();
    const auto run = [&](std::uint32_t options) {
      return pcre2_match(code, text, subject.size(), start, options | PCRE2_NO_UTF_CHECK, with.data,
                         with.context);
    };
    const int found = run(0);
    return found == PCRE2_ERROR_JIT_STACKLIMIT ? run(PCRE2_NO_JIT) : found;
  }
};

Result<Pattern> Pattern::regex(std::string_view expression, std::string_view source) {
  if (expression.size() > kMaxExpressionBytes) {
    return bad_input("{}: a regular expression of {} bytes (at most {} are allowed)", source,
                     expression.size(), kMaxExpressionBytes);
  }
  const std::string translated = KV8_TRY(translate_regex(expression, source));
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, nullptr);
  if (compiled == nullptr) {
    unsigned char text[256] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return bad_input("{}: regular expression `{}`: {}", source, expression,
                     reinterpret_cast<const char*>(text));
  }
  Pattern pattern;
  pattern.code_ = std::make_shared<const Code>(compiled);
  // Without the compiler (no executable memory) the interpreter gives the same matches.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
  return pattern;
}

Result<Pattern> Pattern::literal(std::string_view text, std::string_view source) {
  if (text.empty()) return bad_input("{}: an empty pattern", source);
  Pattern pattern;
  pattern.literal_ = text;
  return pattern;
}

Result<Pattern> Pattern::parse(const Json& json, std::string_view source) {
  if (json.is_object() && json.contains("Regex")) {
    return regex(KV8_TRY(json_string(json, "Regex", source)), source);
  }
  if (json.is_object() && json.contains("String")) {
    return literal(KV8_TRY(json_string(json, "String", source)), source);
  }
  return bad_input("{}: a pattern must be {{\"Regex\": …}} or {{\"String\": …}}", source);
}

void Pattern::find_all(std::string_view subject, std::vector<Range>& out) const {
  out.clear();
  if (code_ == nullptr) {
    for (std::size_t at = subject.find(literal_); at != std::string_view::npos;
         at = subject.find(literal_, at + literal_.size())) {
      out.push_back({at, at + literal_.size()});
    }
    return;
  }
  std::size_t start = 0;
  bool after_match = false;
  while (start <= subject.size() && code_->match(subject, start) > 0) {
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(scratch().data);
    const Range range{found[0], found[1]};
    if (range.begin > range.end || range.end < start) return;  // \K in a look-around
    const std::size_t previous_end = out.empty() ? 0 : out.back().end;
    if (range.begin == range.end && after_match && range.end == previous_end) {
      // An empty match right behind the last one is not taken: look on one character further.
      start = range.end + (range.end < subject.size() ? decode_utf8(subject, range.end).length : 1);
      continue;
    }
    out.push_back(range);
    after_match = true;
    start = range.end;
  }
}

std::string Pattern::replace_all(std::string_view subject, std::string_view replacement) const {
  std::vector<Range> ranges;
  find_all(subject, ranges);
  std::string out;
  std::size_t done = 0;
  for (const Range& range : ranges) {
    out += subject.substr(done, range.begin - done);
    out += replacement;
    done = range.end;
  }
  out += subject.substr(done);
  return out;
}

std::size_t Pattern::growth(std::string_view replacement) const {
  if (code_ != nullptr) return replacement.size() + 1;  // it may match between all characters
  return std::max<std::size_t>(1, (replacement.size() + literal_.size() - 1) / literal_.size());
}

bool Pattern::is_single_character() const {
  return code_ == nullptr && decode_utf8(literal_, 0).length == literal_.size();
}

}  // namespace kv8::text
