#include "graph/backend.h"

namespace kv8 {
namespace {

Status check_slice(const Plan& plan, const SequenceSlice& slice, const BackendOptions& options) {
  KV8_CHECK(slice.num_tokens >= 0 && slice.past_tokens >= 0, "slice of {} tokens, {} past",
            slice.num_tokens, slice.past_tokens);
  const std::int64_t tokens = std::int64_t{slice.past_tokens} + slice.num_tokens;
  if (plan.max_positions > 0 && tokens > plan.max_positions) {
    return capacity_error("a sequence of {} tokens; the model's positions end at {}", tokens,
                          plan.max_positions);
  }
  if (tokens > options.max_sequence_tokens) {
    return capacity_error("a sequence of {} tokens; this engine was opened for {}", tokens,
                          options.max_sequence_tokens);
  }
  for (std::int64_t page = 0; page < pages_for_tokens(tokens); ++page) {
    KV8_CHECK(slice.page_table[page] >= 0 && slice.page_table[page] < options.num_pages,
              "page {} of {}", slice.page_table[page], options.num_pages);
  }
  return {};
}

}  // namespace

void TapSink::on_value(std::string_view, std::int64_t, std::int64_t, const float*) {}

BackendOptions BackendOptions::completed() const {
  BackendOptions options = *this;
  if (options.max_logits_rows == 0) options.max_logits_rows = max_rows;
  if (options.max_sequences == 0) options.max_sequences = max_rows;
  if (options.max_sequence_tokens == 0) {
    options.max_sequence_tokens = std::int64_t{num_pages} * kPageTokens;
  }
  return options;
}

Status check_batch(const Plan& plan, const Batch& batch, const BackendOptions& options) {
  const auto rows = static_cast<std::int64_t>(batch.token_ids.size());
  if (rows > options.max_rows) {
    return capacity_error("a batch of {} tokens; this engine takes {} at a time", rows,
                          options.max_rows);
  }
  if (static_cast<std::int64_t>(batch.sequences.size()) > options.max_sequences) {
    return capacity_error("a batch of {} sequences; this engine was opened for {} at a time",
                          batch.sequences.size(), options.max_sequences);
  }
  if (static_cast<std::int64_t>(batch.logits_rows.size()) > options.max_logits_rows) {
    return capacity_error("logits of {} rows; this engine was opened for {} at a time",
                          batch.logits_rows.size(), options.max_logits_rows);
  }
  for (const std::int32_t id : batch.token_ids) {
    KV8_CHECK(id >= 0 && id < plan.vocab_size, "token {} of {}", id, plan.vocab_size);
  }
  std::int64_t next_row = 0;
  for (const SequenceSlice& slice : batch.sequences) {
    KV8_CHECK(slice.first_row == next_row, "slice of row {} after row {}", slice.first_row,
              next_row);
    KV8_TRY(check_slice(plan, slice, options));
    next_row += slice.num_tokens;
  }
  KV8_CHECK(next_row == rows, "sequences cover {} of {} rows", next_row, rows);
  std::int32_t last = -1;
  for (const std::int32_t row : batch.logits_rows) {
    KV8_CHECK(row > last && row < rows, "logits of row {} after {}", row, last);
    last = row;
  }
  return {};
}

}  // namespace kv8
