// A batch as the kernels want it: sequences in groups, their numbers in one block of memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/backend.h"

namespace kv8::cuda_engine {

/// How the rows of a batch are taken.
enum class RowOrder {
  kDecodeFirst,  ///< sequences of one token before the others, each kind by its own kernel
  kAsGiven,      ///< every sequence by the prefill kernel, in the caller's order
};

/// Sizes of a step, all that its launches depend on beside device memory.
struct StepShape {
  int rows = 0;
  int decode_sequences = 0;  ///< one row each, first
  int prefill_sequences = 0;
  int max_q_len = 1;   ///< longest of the prefill sequences
  int max_kv_len = 1;  ///< likewise
  int logits_rows = 0;
  bool all_rows = false;  ///< logits of every row, in order

  int sequences() const { return decode_sequences + prefill_sequences; }
};

/// Where the 32-bit numbers of a step lie in its control block.
struct ControlOffsets {
  std::size_t ids, cu_rows, prefill_cu, kv_lens, logits_rows, total;
  explicit ControlOffsets(const StepShape& shape);
};

/// Numbers that a step of at most these sizes needs.
std::size_t max_control_words(std::int64_t rows, std::int64_t sequences, std::int64_t logits_rows);

struct BatchImage {
  StepShape shape;
  std::vector<std::int32_t> control;             ///< laid out by ControlOffsets
  std::vector<const std::int32_t*> page_tables;  ///< of each sequence
  std::vector<std::int32_t> num_pages;           ///< entries of each table
};

/// Takes `batch` apart. Sequences without tokens are left out.
BatchImage make_batch_image(const Batch& batch, RowOrder order);

/// A batch of single tokens, with the logits of all of them, grown to `sequences` by sequences of
/// one token whose only page is `scratch_page`.
void pad_decode_batch(BatchImage& image, int sequences, const std::int32_t* scratch_page);

/// Whether every row is a sequence of one token whose logits are wanted.
bool is_plain_decode(const StepShape& shape);

/// The number of sequences that a captured decode step for `sequences` has: 1, 2, 4, 8, then
/// multiples of 8 up to 32, of 16 up to 64, of 32 up to 256 and of 64 beyond.
int decode_bucket(int sequences);

}  // namespace kv8::cuda_engine
