#include "exec/kv_pool.h"

namespace kv8::exec {

KvPool::KvPool(std::int32_t num_pages) {
  KV8_CHECK(num_pages >= 0, "{} pages", num_pages);
  references_.assign(static_cast<std::size_t>(num_pages), 0);
  free_.reserve(references_.size());
  for (std::int32_t page = num_pages; page-- > 0;) free_.push_back(page);
}

Result<std::int32_t> KvPool::take() {
  if (free_.empty()) return capacity_error("all {} KV pages are taken", num_pages());
  const std::int32_t page = free_.back();
  free_.pop_back();
  references_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void KvPool::add_reference(std::int32_t page) {
  KV8_CHECK(references(page) > 0, "page {} is free", page);
  ++references_[static_cast<std::size_t>(page)];
}

void KvPool::release(std::int32_t page) {
  KV8_CHECK(references(page) > 0, "page {} is free already", page);
  if (--references_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

std::int32_t KvPool::references(std::int32_t page) const {
  KV8_CHECK(page >= 0 && page < num_pages(), "page {} of {}", page, num_pages());
  return references_[static_cast<std::size_t>(page)];
}

std::int32_t KvPool::num_free() const { return static_cast<std::int32_t>(free_.size()); }

std::int32_t KvPool::num_pages() const { return static_cast<std::int32_t>(references_.size()); }

}  // namespace kv8::exec
