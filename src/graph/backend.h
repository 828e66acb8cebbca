// What a backend does: it owns a plan's cache pages and activations, and runs batches.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "graph/plan.h"
#include "ops/sampling.h"

namespace kv8 {

/// One call's work: tokens of one or more sequences, prefill chunks and decode steps mixed.
struct Batch {
  std::span<const std::int32_t> token_ids;    ///< one a row
  std::span<const SequenceSlice> sequences;   ///< cover all rows, in order
  std::span<const std::int32_t> logits_rows;  ///< ascending rows whose logits are wanted
};

/// What a backend must have room for.
struct BackendOptions {
  int num_threads = 0;                   ///< of the CPU; 0: all hardware threads
  std::int32_t num_pages = 0;            ///< KV pages per layer
  std::int64_t max_rows = 512;           ///< tokens of one call
  std::int64_t max_logits_rows = 0;      ///< rows of one call whose logits are wanted; 0: max_rows
  std::int64_t max_sequences = 0;        ///< sequences of one call; 0: max_rows
  std::int64_t max_sequence_tokens = 0;  ///< of one sequence; 0: what the pages hold
  /// On a GPU, whether decode steps are captured and replayed.
  bool use_graphs = true;

  /// With every 0 that stands for something else replaced by it.
  BackendOptions completed() const;
};

/// Fails with kCapacity when `batch` is more than `options` (completed) have room for, or a
/// sequence outgrows the plan's positions. Rows, pages or tokens out of range are bugs.
Status check_batch(const Plan& plan, const Batch& batch, const BackendOptions& options);

/// Sees values as they pass. Called on the thread that called Backend::run.
class TapSink {
 public:
  virtual ~TapSink() = default;
  /// Q and K after normalisation and RoPE, V as projected, FP32, before any rounding.
  /// q [rows, num_heads * head_dim]; k, v [rows, num_kv_heads * head_dim].
  virtual void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
                      const float* v) = 0;
  /// Whether on_value is wanted.
  virtual bool wants_values() const { return false; }
  /// The result of a step, [rows, cols], under the name that step_name gives it; the logits last.
  /// A backend leaves out what it never has in memory.
  virtual void on_value(std::string_view name, std::int64_t rows, std::int64_t cols,
                        const float* values);
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// Runs the plan. The logits of the wanted rows stay with the backend until the next call.
  virtual Status run(const Batch& batch, TapSink* taps) = 0;
  /// Copies the last run's logits, FP32 [logits_rows.size(), vocab_size], to the host.
  virtual Status read_logits(std::span<float> logits) = 0;
  /// Draws a token from each row of the last run's logits: `rows` and `tokens` have as many entries
  /// as it had logits_rows. The same tokens as sample_row on the same logits.
  virtual Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) = 0;
  /// Copies page `from` to page `to` in every layer.
  virtual Status copy_page(std::int32_t from, std::int32_t to) = 0;
  /// Rows that one call may carry.
  virtual std::int64_t max_rows() const = 0;
  virtual std::int32_t num_pages() const = 0;
  /// "cpu" or "cuda".
  virtual std::string_view name() const = 0;
  /// What it runs on and how much memory it holds, in one line.
  virtual std::string summary() const { return std::string(name()); }
};

}  // namespace kv8
