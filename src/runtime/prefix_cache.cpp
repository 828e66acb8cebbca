#include "runtime/prefix_cache.h"

#include <algorithm>

namespace kv8::runtime {

const exec::Sequence* PrefixCache::find(std::span<const std::int32_t> ids) {
  auto best = entries_.end();
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const std::size_t length = entry->ids.size();
    const bool longer = best == entries_.end() || length > best->ids.size();
    if (longer && length < ids.size() && std::ranges::equal(entry->ids, ids.first(length))) {
      best = entry;
    }
  }
  if (best == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, best);
  return &entries_.front().sequence;
}

bool PrefixCache::holds(std::span<const std::int32_t> ids) const {
  return std::ranges::any_of(
      entries_, [&](const Entry& entry) { return std::ranges::equal(entry.ids, ids); });
}

void PrefixCache::add(std::span<const std::int32_t> ids, exec::Sequence sequence) {
  entries_.push_front({{ids.begin(), ids.end()}, std::move(sequence)});
}

bool PrefixCache::evict() {
  if (entries_.empty()) return false;
  entries_.pop_back();
  return true;
}

}  // namespace kv8::runtime
