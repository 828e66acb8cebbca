// The normalizer of tokenizer.json: what happens to text before it is split.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/pattern.h"

namespace kv8::text {

/// NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, ByteLevel and Sequences of them;
/// others are refused by name.
class Normalizer {
 public:
  /// `json` may be null: no normalization.
  static Result<Normalizer> parse(const nlohmann::ordered_json& json, std::string_view source);

  bool empty() const { return steps_.empty(); }
  /// `text` is valid UTF-8.
  std::string apply(std::string text) const;

 private:
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kPrepend, kReplace, kStrip, kByteLevel };
  struct Step {
    Kind kind;
    std::string text;                  // kPrepend, kReplace: what to put
    Pattern pattern;                   // kReplace
    bool left = false, right = false;  // kStrip
  };
  Status add(const nlohmann::ordered_json& json, std::string_view source);
  static void apply_step(const Step& step, std::string& text);
  std::vector<Step> steps_;
  std::size_t growth_ = 1;
};

}  // namespace kv8::text
