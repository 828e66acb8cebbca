// What a backend does: it owns a plan's cache pages and activations, and runs batches.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "graph/plan.h"

namespace kv8 {

/// One call's work: tokens of one or more sequences, prefill chunks and decode steps mixed.
struct Batch {
  const std::uint16_t* inputs_embeds = nullptr;  ///< FP16 [num_rows, hidden_size]
  std::int64_t num_rows = 0;
  std::span<const SequenceSlice> sequences;   ///< cover all rows, in order
  std::span<const std::int32_t> logits_rows;  ///< ascending rows whose logits are wanted
};

/// Sees values as they pass. Called on the thread that called Backend::run.
class TapSink {
 public:
  virtual ~TapSink() = default;
  /// Q and K after normalisation and RoPE, V as projected, FP32, before any rounding.
  /// q [rows, num_heads * head_dim]; k, v [rows, num_kv_heads * head_dim].
  virtual void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
                      const float* v) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// Runs the plan. `logits` receives FP32 [logits_rows.size(), vocab_size].
  virtual Status run(const Batch& batch, float* logits, TapSink* taps) = 0;
  /// Copies page `from` to page `to` in every layer.
  virtual Status copy_page(std::int32_t from, std::int32_t to) = 0;
  /// Rows that one call may carry.
  virtual std::int64_t max_rows() const = 0;
  virtual std::int32_t num_pages() const = 0;
  /// "cpu" or "cuda".
  virtual std::string_view name() const = 0;
};

}  // namespace kv8
