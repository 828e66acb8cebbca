#include "runtime/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace kv8::runtime {

std::string StopMatcher::push(std::string_view piece) {
  if (stopped_) return {};
  pending_ += piece;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  std::size_t certain = first;
  if (first != std::string::npos) {
    stopped_ = true;
  } else {
    certain = pending_.size() - held_back();
  }
  std::string result = pending_.substr(0, certain);
  pending_.erase(0, stopped_ ? std::string::npos : certain);
  return result;
}

std::string StopMatcher::finish() { return std::exchange(pending_, {}); }

/// Length of the longest end of the pending text that a stop string begins with.
std::size_t StopMatcher::held_back() const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, pending_.size()); n > longest; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

}  // namespace kv8::runtime
