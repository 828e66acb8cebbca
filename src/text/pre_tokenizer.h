// The pre-tokenizer of tokenizer.json: how normalized text falls into words.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/pattern.h"

namespace kv8::text {

/// ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit and Sequences of them; others
/// are refused by name.
class PreTokenizer {
 public:
  using Sink = std::function<void(std::string_view word)>;

  /// `json` may be null: the whole text is one word.
  static Result<PreTokenizer> parse(const nlohmann::ordered_json& json, std::string_view source);

  /// Calls `sink` with the words of `text` (valid UTF-8) in order; none is empty. `at_start`: the
  /// text's first byte is that of the whole input (Metaspace's prepend_scheme "first").
  void split(std::string_view text, bool at_start, const Sink& sink) const;

 private:
  enum class Kind { kByteLevel, kSplit, kDigits, kMetaspace, kWhitespaceSplit };
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prepend { kAlways, kFirst, kNever };
  struct Step {
    Kind kind;
    Pattern pattern;                          // kSplit, kByteLevel with `cut`
    Behavior behavior = Behavior::kIsolated;  // kSplit, kDigits
    bool invert = false;                      // kSplit
    bool cut = false;                         // kByteLevel: use_regex; kMetaspace: split
    bool add_prefix_space = false;            // kByteLevel
    std::string replacement;                  // kMetaspace
    Prepend prepend = Prepend::kAlways;       // kMetaspace
  };
  struct Segment {
    Range range;
    bool is_match;
  };
  struct Run;

  Status add(const nlohmann::ordered_json& json, std::string_view source);
  static Result<Step> parse_split(const nlohmann::ordered_json& json, std::string_view source);
  static Result<Step> parse_metaspace(const nlohmann::ordered_json& json, std::string_view source);
  static void segments_of(const Step& step, std::string_view text, std::vector<Segment>& out);
  static void apply_behavior(Behavior behavior, std::vector<Segment>& segments);
  std::vector<Step> steps_;
};

}  // namespace kv8::text
