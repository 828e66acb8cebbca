#include "exec/kv_pool.h"

#include <algorithm>

namespace kv8::exec {

KvPool::KvPool(std::int32_t num_pages) : index_(0, HashKey{this}, SameKey{this}) {
  KV8_CHECK(num_pages >= 0, "{} pages", num_pages);
  pages_.resize(static_cast<std::size_t>(num_pages));
  free_.reserve(pages_.size());
  for (std::int32_t page = num_pages; page-- > 0;) free_.push_back(page);
}

Result<std::int32_t> KvPool::take() {
  if (free_.empty() && num_cached_ > 0) forget_oldest();
  if (free_.empty()) return capacity_error("all {} KV pages are taken", num_pages());
  const std::int32_t page = free_.back();
  free_.pop_back();
  at(page).references = 1;
  return page;
}

void KvPool::add_reference(std::int32_t page) {
  Page& held = at(page);
  KV8_CHECK(held.references > 0 || held.indexed, "page {} is free", page);
  if (held.references++ == 0) remove_cached(page);
}

void KvPool::release(std::int32_t page) {
  Page& held = at(page);
  KV8_CHECK(held.references > 0, "page {} is not held", page);
  if (--held.references > 0) return;
  if (held.indexed) {
    append_cached(page);
  } else {
    free_.push_back(page);
  }
}

std::int32_t KvPool::find(std::int32_t parent, PageTokens tokens) const {
  const auto found = index_.find(Key{parent, tokens});
  return found == index_.end() ? kNoPage : *found;
}

void KvPool::index(std::int32_t page, std::int32_t parent, PageTokens tokens) {
  Page& held = at(page);
  KV8_CHECK(held.references > 0 && !held.indexed, "page {} has {} references", page,
            held.references);
  KV8_CHECK(parent == kNoPage || (at(parent).indexed && at(parent).references > 0),
            "page {} behind page {}, which is not held", page, parent);
  KV8_CHECK(find(parent, tokens) == kNoPage, "page {} has the content of another", page);
  held.parent = parent;
  std::ranges::copy(tokens, held.tokens.begin());
  held.indexed = true;
  index_.insert(page);
  if (parent != kNoPage) ++at(parent).num_children;
}

void KvPool::drop_cached() {
  while (num_cached_ > 0) forget_oldest();
}

std::int32_t KvPool::references(std::int32_t page) const { return at(page).references; }

KvPool::Page& KvPool::at(std::int32_t page) {
  KV8_CHECK(page >= 0 && page < num_pages(), "page {} of {}", page, num_pages());
  return pages_[static_cast<std::size_t>(page)];
}

const KvPool::Page& KvPool::at(std::int32_t page) const {
  return const_cast<KvPool*>(this)->at(page);
}

/// FNV-1a over 32-bit words, finished as in splitmix64 so that all bits of the tokens matter to all
/// bits of the hash.
std::size_t KvPool::HashKey::operator()(const Key& key) const {
  std::uint64_t hash = 0xCBF29CE484222325u ^ static_cast<std::uint32_t>(key.parent);
  for (const std::int32_t token : key.tokens) {
    hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x100000001B3u;
  }
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBu;
  return hash ^ (hash >> 31);
}

bool KvPool::SameKey::operator()(const Key& key, std::int32_t page) const {
  return key.parent == pool->at(page).parent &&
         std::ranges::equal(key.tokens, pool->at(page).tokens);
}

void KvPool::append_cached(std::int32_t page) {
  Page& cached = at(page);
  cached.older = newest_;
  cached.newer = kNoPage;
  (newest_ == kNoPage ? oldest_ : at(newest_).newer) = page;
  newest_ = page;
  ++num_cached_;
}

void KvPool::remove_cached(std::int32_t page) {
  const Page& cached = at(page);
  (cached.older == kNoPage ? oldest_ : at(cached.older).newer) = cached.newer;
  (cached.newer == kNoPage ? newest_ : at(cached.newer).older) = cached.older;
  --num_cached_;
}

/// The page becomes free.
void KvPool::forget_oldest() {
  const std::int32_t page = oldest_;
  Page& cached = at(page);
  KV8_CHECK(cached.num_children == 0, "page {} was released before {} pages behind it", page,
            cached.num_children);
  remove_cached(page);
  index_.erase(page);
  if (cached.parent != kNoPage) --at(cached.parent).num_children;
  cached.indexed = false;
  cached.parent = kNoPage;
  free_.push_back(page);
}

}  // namespace kv8::exec
