// Which pages of the KV cache belong to whom: reference counts, no memory.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"

namespace kv8::exec {

/// Hands out page numbers 0..num_pages-1. Not thread-safe.
class KvPool {
 public:
  explicit KvPool(std::int32_t num_pages);
  /// A page with one reference, or kCapacity when all are taken.
  Result<std::int32_t> take();
  void add_reference(std::int32_t page);
  /// Drops a reference; the page is free again at none.
  void release(std::int32_t page);
  std::int32_t references(std::int32_t page) const;
  std::int32_t num_free() const;
  std::int32_t num_pages() const;

 private:
  std::vector<std::int32_t> references_;
  std::vector<std::int32_t> free_;
};

}  // namespace kv8::exec
