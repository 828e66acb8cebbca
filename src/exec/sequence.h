// A sequence's place in the cache, and running batches of sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exec/engine.h"
#include "exec/kv_pool.h"

namespace kv8::exec {

/// Pages and length of one sequence. Movable; releases its pages when destroyed.
class Sequence {
 public:
  explicit Sequence(KvPool& pool) : pool_(&pool) {}
  Sequence(Sequence&& other) noexcept;
  Sequence& operator=(Sequence&& other) noexcept;
  ~Sequence();

  std::int32_t length() const { return length_; }
  const std::vector<std::int32_t>& pages() const { return pages_; }
  KvPool& pool() const { return *pool_; }
  /// Pages that `tokens` more tokens would have to take from the pool.
  std::int64_t pages_lacking(std::int32_t tokens) const;
  /// Takes the pages that `tokens` more tokens need; kCapacity (and nothing taken) if they lack.
  Status reserve(std::int32_t tokens);
  /// Counts `tokens` as written.
  void advance(std::int32_t tokens);

  /// For a sequence that holds nothing but pages which the pool has indexed: goes on with indexed
  /// pages that hold what follows in `tokens` (the whole text, from its first token), in place of
  /// reserved ones, and counts them as written. Leaves at least one token of `tokens` to run.
  /// Returns how many were taken over.
  std::int32_t reuse(std::span<const std::int32_t> tokens);
  /// Has the pool index the full pages; `tokens` are those written so far (and perhaps more). Where
  /// the pool knows a page of the same text already, that one takes this one's place.
  void index(std::span<const std::int32_t> tokens);
  /// Another sequence that holds the first `pages` pages, all of them indexed.
  Sequence prefix(std::size_t pages) const;
  /// Gives all pages back.
  void clear();

 private:
  KvPool* pool_;
  /// The indexed page that holds what `tokens` say of page `number`.
  std::int32_t find_page(std::size_t number, std::span<const std::int32_t> tokens) const;
  void exchange(std::size_t number, std::int32_t page);

  std::vector<std::int32_t> pages_;
  std::size_t num_indexed_ = 0;  // leading pages that the pool has indexed
  std::int32_t length_ = 0;
};

/// One sequence's tokens in a step.
struct StepItem {
  Sequence* sequence = nullptr;
  std::span<const std::int32_t> tokens;
  enum class Logits { kNone, kLast, kAll } logits = Logits::kLast;
};

/// Reserves pages, runs the backend and advances the sequences; the wanted rows' logits stay with
/// the backend, in order. All tokens together must fit Backend::max_rows; items are of different
/// sequences of one pool and have at least one token each. kCapacity, and nothing changed, when
/// pages lack.
Status run_step(Backend& backend, std::span<const StepItem> items, TapSink* taps = nullptr);

/// The same, and copies the logits to `logits`, [rows, vocab_size]. kCapacity also when a sequence
/// would outgrow the engine's max_kv_cache_capacity.
Status run_step(const Engine& engine, Backend& backend, std::span<const StepItem> items,
                std::vector<float>& logits, TapSink* taps = nullptr);

/// Feeds a long prompt in chunks of at most `chunk` tokens; logits as for the last chunk, or of all
/// tokens with Logits::kAll.
Status run_prefill(const Engine& engine, Backend& backend, Sequence& sequence,
                   std::span<const std::int32_t> tokens, std::int32_t chunk,
                   StepItem::Logits wanted, std::vector<float>& logits, TapSink* taps = nullptr);

}  // namespace kv8::exec
