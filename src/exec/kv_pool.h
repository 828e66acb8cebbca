// Which pages of the KV cache belong to whom, and which hold what tokens: no memory of its own.
//
// Full pages are indexed by content as a tree: a page's key is the page before it (its parent) and
// its own kPageTokens tokens, both compared exactly, so that equal keys mean equal text from the
// first token on and no hash can lead astray. Nothing else decides what a page holds: a pool
// belongs to one engine, and the depth in the tree is the position. A page that nobody holds any
// more stays as cached while it is indexed, until its memory is wanted: the one released longest
// ago goes first. Sequences release their last page first, so children go before their parents.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "ops/kv_layout.h"

namespace kv8::exec {

inline constexpr std::int32_t kNoPage = -1;
/// The tokens of a full page.
using PageTokens = std::span<const std::int32_t, kPageTokens>;

/// Hands out page numbers 0..num_pages-1. Not thread-safe.
class KvPool {
 public:
  explicit KvPool(std::int32_t num_pages);
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  /// A page with one reference: a free one, else the cached one released longest ago. kCapacity
  /// when all pages are held.
  Result<std::int32_t> take();
  /// `page` is held, or cached.
  void add_reference(std::int32_t page);
  /// Drops a reference. At none the page is cached if it is indexed, else free. Holders of a chain
  /// release children before parents.
  void release(std::int32_t page);

  /// The indexed page that holds `tokens` behind `parent` (kNoPage: at the start), or kNoPage.
  std::int32_t find(std::int32_t parent, PageTokens tokens) const;
  /// Indexes `page`, which is held and not indexed, under a key that find() does not know. `parent`
  /// is indexed, and held by whoever holds `page` as long as they do.
  void index(std::int32_t page, std::int32_t parent, PageTokens tokens);
  /// Forgets all cached pages; they are free then.
  void drop_cached();

  std::int32_t references(std::int32_t page) const;
  std::int32_t num_pages() const { return static_cast<std::int32_t>(pages_.size()); }
  std::int32_t num_free() const { return static_cast<std::int32_t>(free_.size()); }
  std::int32_t num_cached() const { return num_cached_; }
  /// Pages that take() can give.
  std::int32_t num_available() const { return num_free() + num_cached_; }

 private:
  struct Page {
    std::int32_t references = 0;
    bool indexed = false;
    std::int32_t parent = kNoPage, num_children = 0;
    std::int32_t older = kNoPage, newer = kNoPage;  // neighbours among the cached pages
    std::array<std::int32_t, kPageTokens> tokens = {};
  };
  struct Key {
    std::int32_t parent;
    PageTokens tokens;
  };
  // The index holds page numbers and looks at the pages for their keys.
  struct HashKey {
    using is_transparent = void;
    const KvPool* pool;
    std::size_t operator()(const Key& key) const;
    std::size_t operator()(std::int32_t page) const { return (*this)(pool->key_of(page)); }
  };
  struct SameKey {
    using is_transparent = void;
    const KvPool* pool;
    bool operator()(std::int32_t a, std::int32_t b) const { return a == b; }
    bool operator()(const Key& key, std::int32_t page) const;
    bool operator()(std::int32_t page, const Key& key) const { return (*this)(key, page); }
  };

  Page& at(std::int32_t page);
  const Page& at(std::int32_t page) const;
  Key key_of(std::int32_t page) const { return {at(page).parent, PageTokens(at(page).tokens)}; }
  void append_cached(std::int32_t page);
  void remove_cached(std::int32_t page);
  void forget_oldest();

  std::vector<Page> pages_;
  std::vector<std::int32_t> free_;
  std::unordered_set<std::int32_t, HashKey, SameKey> index_;
  std::int32_t num_cached_ = 0;
  std::int32_t oldest_ = kNoPage, newest_ = kNoPage;  // cached pages by their release
};

}  // namespace kv8::exec
