// The decoder of tokenizer.json, as a chain that takes tokens one by one.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/pattern.h"

namespace kv8::text {

/// ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace and Sequences of them; others are
/// refused by name. Without a decoder tokens are joined by spaces.
class DecoderChain {
 public:
  /// Where one text stands in the chain; the empty state is its beginning.
  struct StepState {
    std::string held;       ///< bytes that cannot be passed on yet
    std::size_t count = 0;  ///< tokens (or stripped characters) so far
    bool stripping = true;  ///< still at the characters that Strip may take
  };
  using State = std::vector<StepState>;

  static Result<DecoderChain> parse(const nlohmann::ordered_json& json, std::string_view source);

  /// Appends to `out` what `token` adds to the text: whole characters only.
  void push(State& state, std::string token, std::string& out) const;
  /// Appends what the chain still holds.
  void finish(State& state, std::string& out) const;
  /// The bytes of one token seen alone, in the middle of a text.
  std::string token_bytes(std::string_view token) const;
  /// True when the first space of a text is dropped.
  bool strips_leading_space() const;

 private:
  enum class Kind { kByteLevel, kByteFallback, kFuse, kReplace, kStrip, kMetaspace, kJoin };
  struct Step {
    Kind kind;
    Pattern pattern;                  // kReplace, kMetaspace
    std::string text;                 // kReplace, kStrip
    std::size_t start = 0, stop = 0;  // kStrip, in characters
    bool drop_first = false;          // kMetaspace
    bool fused = false;               // all tokens are one when they come here
  };
  Status add(const nlohmann::ordered_json& json, std::string_view source);
  static Status parse_strip(Step& step, const nlohmann::ordered_json& json,
                            std::string_view source);
  void pass(std::size_t index, State& state, std::string token, std::string& out) const;
  void release(std::size_t index, State& state, std::string& out) const;
  static std::string strip(const Step& step, StepState& at, std::string token);
  std::vector<Step> steps_;
  std::size_t growth_ = 1;
};

}  // namespace kv8::text
