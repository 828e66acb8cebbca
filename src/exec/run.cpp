// Running batches: page reservation, the backend's call, bookkeeping.
#include <algorithm>

#include "exec/sequence.h"

namespace kv8::exec {
namespace {

struct BatchRows {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> logits_rows;
};

BatchRows collect_rows(std::span<const StepItem> items) {
  BatchRows rows;
  std::size_t num_tokens = 0;
  for (const StepItem& item : items) num_tokens += item.tokens.size();
  rows.tokens.reserve(num_tokens);
  rows.logits_rows.reserve(items.size());
  for (const StepItem& item : items) {
    KV8_CHECK(item.sequence != nullptr && !item.tokens.empty(), "a step item without tokens");
    const auto first = static_cast<std::int32_t>(rows.tokens.size());
    rows.tokens.insert(rows.tokens.end(), item.tokens.begin(), item.tokens.end());
    const auto end = static_cast<std::int32_t>(rows.tokens.size());
    std::int32_t wanted = end;
    if (item.logits == StepItem::Logits::kAll) wanted = first;
    if (item.logits == StepItem::Logits::kLast) wanted = end - 1;
    for (; wanted < end; ++wanted) rows.logits_rows.push_back(wanted);
  }
  return rows;
}

/// The capacity is what the engine was built for.
Status check_lengths(const Engine& engine, std::span<const StepItem> items) {
  const std::int64_t capacity = engine.config().builder.max_kv_cache_capacity;
  for (const StepItem& item : items) {
    const std::int64_t length = item.sequence->length() + std::ssize(item.tokens);
    if (length > capacity) {
      return capacity_error(
          "a sequence of {} tokens is longer than the engine's max_kv_cache_capacity {}", length,
          capacity);
    }
  }
  return {};
}

/// Takes every item's pages, or none.
Status reserve_all(std::span<const StepItem> items) {
  std::int64_t lacking = 0;
  for (const StepItem& item : items) {
    lacking += item.sequence->pages_lacking(static_cast<std::int32_t>(item.tokens.size()));
  }
  const std::int64_t available = items.front().sequence->pool().num_available();
  if (lacking > available) {
    return capacity_error("this step needs {} KV pages, {} are free", lacking, available);
  }
  for (const StepItem& item : items) {
    KV8_TRY(item.sequence->reserve(static_cast<std::int32_t>(item.tokens.size())));
  }
  return {};
}

std::vector<SequenceSlice> slices_of(std::span<const StepItem> items) {
  std::vector<SequenceSlice> slices;
  slices.reserve(items.size());
  std::int64_t row = 0;
  for (const StepItem& item : items) {
    SequenceSlice slice;
    slice.first_row = row;
    slice.num_tokens = static_cast<std::int32_t>(item.tokens.size());
    slice.past_tokens = item.sequence->length();
    slice.page_table = item.sequence->pages().data();
    row += slice.num_tokens;
    slices.push_back(slice);
  }
  return slices;
}

}  // namespace

Status run_step(Backend& backend, std::span<const StepItem> items, TapSink* taps) {
  if (items.empty()) return {};
  const BatchRows rows = collect_rows(items);
  KV8_CHECK(static_cast<std::int64_t>(rows.tokens.size()) <= backend.max_rows(),
            "{} tokens in a step of at most {}", rows.tokens.size(), backend.max_rows());
  KV8_TRY(reserve_all(items));

  const std::vector<SequenceSlice> slices = slices_of(items);
  KV8_TRY(backend.run({rows.tokens, slices, rows.logits_rows}, taps));
  for (const StepItem& item : items) {
    item.sequence->advance(static_cast<std::int32_t>(item.tokens.size()));
  }
  return {};
}

Status run_step(const Engine& engine, Backend& backend, std::span<const StepItem> items,
                std::vector<float>& logits, TapSink* taps) {
  KV8_TRY(check_lengths(engine, items));
  KV8_TRY(run_step(backend, items, taps));
  std::size_t rows = 0;
  for (const StepItem& item : items) {
    if (item.logits == StepItem::Logits::kAll) rows += item.tokens.size();
    if (item.logits == StepItem::Logits::kLast) rows += 1;
  }
  logits.resize(rows * static_cast<std::size_t>(engine.plan().vocab_size));
  return rows == 0 ? Status() : backend.read_logits(logits);
}

Status run_prefill(const Engine& engine, Backend& backend, Sequence& sequence,
                   std::span<const std::int32_t> tokens, std::int32_t chunk,
                   StepItem::Logits wanted, std::vector<float>& logits, TapSink* taps) {
  KV8_CHECK(chunk > 0, "chunks of {} tokens", chunk);
  if (tokens.empty()) {
    logits.clear();
    return {};
  }
  // The whole prompt fits, or nothing of it runs.
  const StepItem whole{&sequence, tokens};
  KV8_TRY(check_lengths(engine, std::span(&whole, 1)));
  KV8_TRY(reserve_all(std::span(&whole, 1)));
  const auto step_tokens =
      static_cast<std::size_t>(std::min<std::int64_t>(chunk, backend.max_rows()));
  std::vector<float> step_logits, all_logits;
  if (wanted == StepItem::Logits::kAll) {
    all_logits.reserve(tokens.size() * static_cast<std::size_t>(engine.plan().vocab_size));
  }
  while (!tokens.empty()) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    const bool last = tokens.size() <= step_tokens;
    StepItem item;
    item.sequence = &sequence;
    item.tokens = tokens.first(std::min(step_tokens, tokens.size()));
    item.logits = last || wanted == StepItem::Logits::kAll ? wanted : StepItem::Logits::kNone;
    KV8_TRY(run_step(engine, backend, std::span(&item, 1), step_logits, taps));
    all_logits.insert(all_logits.end(), step_logits.begin(), step_logits.end());
    tokens = tokens.subspan(item.tokens.size());
  }
  logits = std::move(all_logits);
  return {};
}

}  // namespace kv8::exec
