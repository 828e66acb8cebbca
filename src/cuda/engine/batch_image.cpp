#include "cuda/engine/batch_image.h"

#include <algorithm>

namespace kv8::cuda_engine {
namespace {

/// Indices of the sequences with tokens, in the order that they run in.
std::vector<std::size_t> sequence_order(const Batch& batch, RowOrder order) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < batch.sequences.size(); ++i) {
    if (batch.sequences[i].num_tokens > 0) indices.push_back(i);
  }
  if (order == RowOrder::kDecodeFirst) {
    // Not std::ranges': clang 14 cannot read what libstdc++ 12 makes of it.
    std::stable_partition(indices.begin(), indices.end(),
                          [&](std::size_t i) { return batch.sequences[i].num_tokens == 1; });
  }
  return indices;
}

std::int32_t* words(std::vector<std::int32_t>& control, std::size_t offset) {
  return control.data() + offset;
}

}  // namespace

ControlOffsets::ControlOffsets(const StepShape& shape) {
  const auto sequences = static_cast<std::size_t>(shape.sequences());
  ids = 0;
  cu_rows = ids + static_cast<std::size_t>(shape.rows);
  prefill_cu = cu_rows + sequences + 1;
  kv_lens = prefill_cu + static_cast<std::size_t>(shape.prefill_sequences) + 1;
  logits_rows = kv_lens + sequences;
  total = logits_rows + (shape.all_rows ? 0 : static_cast<std::size_t>(shape.logits_rows));
}

std::size_t max_control_words(std::int64_t rows, std::int64_t sequences, std::int64_t logits_rows) {
  return static_cast<std::size_t>(rows + 3 * sequences + 2 + logits_rows);
}

BatchImage make_batch_image(const Batch& batch, RowOrder order) {
  BatchImage image;
  StepShape& shape = image.shape;
  const std::vector<std::size_t> indices = sequence_order(batch, order);
  shape.rows = static_cast<int>(batch.token_ids.size());
  for (const std::size_t i : indices) {
    const SequenceSlice& slice = batch.sequences[i];
    image.page_tables.push_back(slice.page_table);
    image.num_pages.push_back(static_cast<std::int32_t>(
        pages_for_tokens(std::int64_t{slice.past_tokens} + slice.num_tokens)));
    if (order == RowOrder::kDecodeFirst && slice.num_tokens == 1) {
      ++shape.decode_sequences;
      continue;
    }
    ++shape.prefill_sequences;
    shape.max_q_len = std::max(shape.max_q_len, slice.num_tokens);
    shape.max_kv_len = std::max(shape.max_kv_len, slice.past_tokens + slice.num_tokens);
  }
  std::vector<std::int32_t> row_of(batch.token_ids.size());  // from the caller's row to ours
  std::int32_t row = 0;
  for (const std::size_t i : indices) {
    const SequenceSlice& slice = batch.sequences[i];
    for (std::int32_t t = 0; t < slice.num_tokens; ++t) {
      row_of[static_cast<std::size_t>(slice.first_row + t)] = row++;
    }
  }
  shape.logits_rows = static_cast<int>(batch.logits_rows.size());
  shape.all_rows = shape.logits_rows == shape.rows && std::ranges::is_sorted(row_of);

  const ControlOffsets at(shape);
  image.control.assign(at.total, 0);
  std::int32_t* const ids = words(image.control, at.ids);
  std::int32_t* const cu_rows = words(image.control, at.cu_rows);
  std::int32_t* const prefill_cu = words(image.control, at.prefill_cu);
  std::int32_t* const kv_lens = words(image.control, at.kv_lens);
  for (std::size_t r = 0; r < row_of.size(); ++r) ids[row_of[r]] = batch.token_ids[r];
  for (std::size_t s = 0; s < indices.size(); ++s) {
    const SequenceSlice& slice = batch.sequences[indices[s]];
    cu_rows[s + 1] = cu_rows[s] + slice.num_tokens;
    kv_lens[s] = slice.past_tokens + slice.num_tokens;
    const auto decode = static_cast<std::size_t>(shape.decode_sequences);
    if (s >= decode) prefill_cu[s - decode + 1] = prefill_cu[s - decode] + slice.num_tokens;
  }
  if (!shape.all_rows) {
    std::int32_t* const wanted = words(image.control, at.logits_rows);
    for (std::size_t i = 0; i < batch.logits_rows.size(); ++i) {
      wanted[i] = row_of[static_cast<std::size_t>(batch.logits_rows[i])];
    }
  }
  return image;
}

bool is_plain_decode(const StepShape& shape) {
  return shape.rows > 0 && shape.prefill_sequences == 0 && shape.all_rows;
}

void pad_decode_batch(BatchImage& image, int sequences, const std::int32_t* scratch_page) {
  const ControlOffsets from(image.shape);
  const int real = image.shape.rows;
  image.shape.rows = image.shape.decode_sequences = image.shape.logits_rows = sequences;
  const ControlOffsets to(image.shape);
  std::vector<std::int32_t> control(to.total, 0);
  for (int i = 0; i < sequences; ++i) {
    const auto s = static_cast<std::size_t>(i);
    control[to.ids + s] = i < real ? image.control[from.ids + s] : 0;
    control[to.cu_rows + s + 1] = i + 1;
    control[to.kv_lens + s] = i < real ? image.control[from.kv_lens + s] : 1;
  }
  image.control = std::move(control);
  image.page_tables.resize(static_cast<std::size_t>(sequences), scratch_page);
  image.num_pages.resize(static_cast<std::size_t>(sequences), 1);
}

int decode_bucket(int sequences) {
  const auto up = [sequences](int step) { return (sequences + step - 1) / step * step; };
  if (sequences <= 8) {
    int bucket = 1;
    while (bucket < sequences) bucket *= 2;
    return bucket;
  }
  if (sequences <= 32) return up(8);
  if (sequences <= 64) return up(16);
  return sequences <= 256 ? up(32) : up(64);
}

}  // namespace kv8::cuda_engine
