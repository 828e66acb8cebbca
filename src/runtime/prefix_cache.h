// KV pages of system prompts, kept for later requests that begin with the same tokens.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "exec/sequence.h"

namespace kv8::runtime {

/// Keyed by token ids: the cache of a prefix depends on nothing else. FP8 and FP16 pages alike.
class PrefixCache {
 public:
  /// The longest kept prefix that `ids` begins with and goes beyond (the last token must still run,
  /// its logits are needed); nullptr if none. Counts as a use.
  const exec::Sequence* find(std::span<const std::int32_t> ids);
  bool holds(std::span<const std::int32_t> ids) const;
  void add(std::span<const std::int32_t> ids, exec::Sequence sequence);
  /// Drops the prefix whose last use is longest ago; false if there is none.
  bool evict();

 private:
  struct Entry {
    std::vector<std::int32_t> ids;
    exec::Sequence sequence;
  };
  std::list<Entry> entries_;  // latest use first
};

}  // namespace kv8::runtime
