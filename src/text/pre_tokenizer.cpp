#include "text/pre_tokenizer.h"

#include <algorithm>

#include "base/json.h"
#include "text/byte_level.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

// The words of GPT-2.
constexpr std::string_view kByteLevelWords =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::size_t kMaxSteps = 64;

}  // namespace

Result<PreTokenizer> PreTokenizer::parse(const Json& json, std::string_view source) {
  PreTokenizer result;
  if (!json.is_null()) KV8_TRY(result.add(json, source));
  return result;
}

Status PreTokenizer::add(const Json& json, std::string_view source) {
  const std::string type = KV8_TRY(json_string(json, "type", source));
  Step step{};
  if (type == "Sequence") {
    const auto list = json.find("pretokenizers");
    if (list == json.end() || !list->is_array()) {
      return bad_input("{}: a Sequence needs the list `pretokenizers`", source);
    }
    for (const Json& item : *list) KV8_TRY(add(item, source));
    return {};
  }
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
    step.add_prefix_space = KV8_TRY(json_bool_or(json, "add_prefix_space", source, true));
    step.cut = KV8_TRY(json_bool_or(json, "use_regex", source, true));
    if (step.cut) step.pattern = KV8_TRY(Pattern::regex(kByteLevelWords, source));
  } else if (type == "Split") {
    step = KV8_TRY(parse_split(json, source));
  } else if (type == "Digits") {
    step.kind = Kind::kDigits;
    step.behavior = KV8_TRY(json_bool_or(json, "individual_digits", source, false))
                        ? Behavior::kIsolated
                        : Behavior::kContiguous;
  } else if (type == "Metaspace") {
    step = KV8_TRY(parse_metaspace(json, source));
  } else if (type == "Whitespace") {
    step.kind = Kind::kSplit;
    step.pattern = KV8_TRY(
        Pattern::regex(fmt::format(R"([{0}\x{{200C}}\x{{200D}}]+|[^{0}\x{{200C}}\x{{200D}}{1}]+)",
                                   kWordClass, kWhiteSpaceClass),
                       source));
    step.behavior = Behavior::kRemoved;
    step.invert = true;
  } else if (type == "WhitespaceSplit") {
    step.kind = Kind::kWhitespaceSplit;
    step.behavior = Behavior::kRemoved;
  } else {
    return unsupported(
        "{}: type `{}` is not supported (supported: ByteLevel, Split, Digits, Metaspace, "
        "Whitespace, WhitespaceSplit, Sequence)",
        source, type);
  }
  if (steps_.size() >= kMaxSteps) return bad_input("{}: more than {} steps", source, kMaxSteps);
  steps_.push_back(std::move(step));
  return {};
}

Result<PreTokenizer::Step> PreTokenizer::parse_split(const Json& json, std::string_view source) {
  Step step{};
  step.kind = Kind::kSplit;
  step.pattern = KV8_TRY(Pattern::parse(json.value("pattern", Json()), source));
  step.invert = KV8_TRY(json_bool_or(json, "invert", source, false));
  const std::string behavior = KV8_TRY(json_string(json, "behavior", source));
  if (behavior == "Isolated") {
    step.behavior = Behavior::kIsolated;
  } else if (behavior == "Removed") {
    step.behavior = Behavior::kRemoved;
  } else if (behavior == "MergedWithPrevious") {
    step.behavior = Behavior::kMergedWithPrevious;
  } else if (behavior == "MergedWithNext") {
    step.behavior = Behavior::kMergedWithNext;
  } else if (behavior == "Contiguous") {
    step.behavior = Behavior::kContiguous;
  } else {
    return bad_input("{}: unknown Split behavior `{}`", source, behavior);
  }
  return step;
}

Result<PreTokenizer::Step> PreTokenizer::parse_metaspace(const Json& json,
                                                         std::string_view source) {
  Step step{};
  step.kind = Kind::kMetaspace;
  step.behavior = Behavior::kMergedWithNext;
  step.replacement = KV8_TRY(json_string_or(json, "replacement", source, "\xE2\x96\x81"));
  if (step.replacement.empty() ||
      decode_utf8(step.replacement, 0).length != step.replacement.size()) {
    return bad_input("{}: Metaspace's `replacement` must be one character", source);
  }
  step.cut = KV8_TRY(json_bool_or(json, "split", source, true));
  // Older files have add_prefix_space where newer ones have prepend_scheme.
  const bool add = KV8_TRY(json_bool_or(json, "add_prefix_space", source, true));
  const std::string scheme =
      KV8_TRY(json_string_or(json, "prepend_scheme", source, add ? "always" : "never"));
  if (scheme == "always") {
    step.prepend = Prepend::kAlways;
  } else if (scheme == "first") {
    step.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    step.prepend = Prepend::kNever;
  } else {
    return bad_input("{}: unknown prepend_scheme `{}`", source, scheme);
  }
  return step;
}

/// Cuts `text` into segments that cover it, before the behavior is applied.
void PreTokenizer::segments_of(const Step& step, std::string_view text, std::vector<Segment>& out) {
  out.clear();
  std::size_t done = 0;
  const auto take = [&](Range match) {
    if (done < match.begin) out.push_back({{done, match.begin}, step.invert});
    out.push_back({match, !step.invert});
    done = match.end;
  };
  if (step.kind == Kind::kSplit || step.kind == Kind::kByteLevel) {
    std::vector<Range> matches;
    step.pattern.find_all(text, matches);
    for (const Range& match : matches) take(match);
  } else {
    const char32_t meta =
        step.kind == Kind::kMetaspace ? decode_utf8(step.replacement, 0).value : 0;
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint c = decode_utf8(text, at);
      const bool matches = step.kind == Kind::kDigits      ? is_numeric(c.value)
                           : step.kind == Kind::kMetaspace ? c.value == meta
                                                           : is_white_space(c.value);
      if (matches) take({at, at + c.length});
      at += c.length;
    }
  }
  if (done < text.size()) out.push_back({{done, text.size()}, step.invert});
}

/// What is_match and the neighbours say of each segment becomes the list of words; is_match has no
/// meaning afterwards.
void PreTokenizer::apply_behavior(Behavior behavior, std::vector<Segment>& segments) {
  if (behavior == Behavior::kIsolated) return;
  if (behavior == Behavior::kRemoved) {
    std::erase_if(segments, [](const Segment& segment) { return segment.is_match; });
    return;
  }
  const bool backwards = behavior == Behavior::kMergedWithNext;
  if (backwards) std::reverse(segments.begin(), segments.end());
  std::size_t kept = 0;
  bool previous = false;
  for (const Segment segment : segments) {
    const bool joins = behavior == Behavior::kContiguous ? segment.is_match == previous
                                                         : segment.is_match && !previous;
    previous = segment.is_match;
    if (joins && kept > 0) {
      Range& last = segments[kept - 1].range;
      (backwards ? last.begin : last.end) = backwards ? segment.range.begin : segment.range.end;
    } else {
      segments[kept++] = segment;
    }
  }
  segments.resize(kept);
  if (backwards) std::reverse(segments.begin(), segments.end());
}

/// One call of split(): buffers that the steps reuse from word to word.
struct PreTokenizer::Run {
  const std::vector<Step>& steps;
  const Sink& sink;
  std::vector<std::string> texts{steps.size()};
  std::vector<std::string> mapped{steps.size()};
  std::vector<std::vector<Segment>> segments{steps.size()};

  void apply(std::size_t index, std::string_view text, bool at_start) {
    if (text.empty()) return;
    if (index == steps.size()) return sink(text);
    const Step& step = steps[index];
    const std::string_view changed = prepare(step, text, at_start, texts[index]);
    if (!step.cut && (step.kind == Kind::kByteLevel || step.kind == Kind::kMetaspace)) {
      return pass_on(index, changed, at_start);
    }
    segments_of(step, changed, segments[index]);
    apply_behavior(step.behavior, segments[index]);
    for (std::size_t i = 0; i < segments[index].size(); ++i) {
      const Range range = segments[index][i].range;
      pass_on(index, changed.substr(range.begin, range.end - range.begin),
              at_start && range.begin == 0);
    }
  }

  /// Prefixes and replacements, which come before the cut.
  static std::string_view prepare(const Step& step, std::string_view text, bool at_start,
                                  std::string& buffer) {
    if (step.kind == Kind::kByteLevel && step.add_prefix_space && text.front() != ' ') {
      buffer.assign(1, ' ');
      buffer += text;
      return buffer;
    }
    if (step.kind != Kind::kMetaspace) return text;
    buffer.clear();
    const bool prefix =
        step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && at_start);
    const bool has_prefix =
        text.front() == ' ' || text.substr(0, step.replacement.size()) == step.replacement;
    if (prefix && !has_prefix) buffer += step.replacement;
    for (const char c : text) {
      if (c == ' ') {
        buffer += step.replacement;
      } else {
        buffer += c;
      }
    }
    return buffer;
  }

  void pass_on(std::size_t index, std::string_view word, bool at_start) {
    if (steps[index].kind != Kind::kByteLevel) return apply(index + 1, word, at_start);
    mapped[index].clear();
    append_byte_characters(mapped[index], word);
    apply(index + 1, mapped[index], at_start);
  }
};

void PreTokenizer::split(std::string_view text, bool at_start, const Sink& sink) const {
  Run run{steps_, sink};
  run.apply(0, text, at_start);
}

}  // namespace kv8::text
