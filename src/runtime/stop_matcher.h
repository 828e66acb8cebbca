// Stop strings in streamed text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kv8::runtime {

/// Takes text piece by piece and lets through what can no longer be part of a stop string. A stop
/// string may span pieces (tokens). The first to be complete ends the text before itself; of
/// several that one piece completes, the one that begins first. Stop strings are not empty.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Text that became certain with `piece`; may be empty. Nothing more comes once stopped().
  std::string push(std::string_view piece);
  /// What was held back, when no more text will come.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::size_t held_back() const;

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace kv8::runtime
