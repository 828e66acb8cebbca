// The plan: what an engine executes. exec/planner makes it from a Graph, the engine file stores
// it, and a backend runs its steps in order over ragged batches.
//
// Slots are activations, [rows, slot_cols[slot]]; rows is the number of tokens of the batch, or of
// selected rows after SelectRows. Weights are indices into Plan::weights.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "ops/params.h"

namespace kv8 {

using Slot = std::int32_t;
using WeightIndex = std::int32_t;
inline constexpr std::int32_t kNone = -1;

struct RmsNormStep {
  Slot in, out;
  WeightIndex weight;
  float eps;
};
struct LinearStep {
  Slot in, out;
  WeightIndex weight;        ///< [out, in]
  WeightIndex bias = kNone;  ///< [out]
  Slot residual = kNone;
};
struct RopeKvWriteStep {
  Slot qkv, q_out;
  std::int32_t layer;
  WeightIndex q_norm = kNone, k_norm = kNone;
  float norm_eps = 0.0f;
};
struct AttentionStep {
  Slot q, out;
  std::int32_t layer;
};
struct SwiGluStep {
  Slot gate_up, out;
};
/// Keeps only the rows whose logits were asked for (Batch::logits_rows).
struct SelectRowsStep {
  Slot in, out;
};
using Step = std::variant<RmsNormStep, LinearStep, RopeKvWriteStep, AttentionStep, SwiGluStep,
                          SelectRowsStep>;

/// KV cache of one layer. Scales have Plan::qk_exponent_shift folded in.
struct LayerCache {
  DType dtype = DType::kF16;            ///< kF16 or kF8E4M3
  std::vector<float> k_scale, v_scale;  ///< FP8: 1 or num_kv_heads entries, same count
  std::vector<float> q_scale;           ///< one entry, or empty: Q is not quantized
};

/// A weight as a list of row blocks, concatenated along dimension 0 when it is stored. In a loaded
/// engine there is one part.
struct PlanWeight {
  std::string name;
  DType dtype = DType::kF16;
  Shape shape;
  std::vector<TensorView> parts;
};

/// The kernel of a library that ran a product of `rows` rows fastest when the engine was built.
/// Only the backend that wrote it knows what `algorithm` says.
struct TunedProduct {
  std::int32_t rows = 0, in = 0, out = 0;
  bool f32_out = false, bias = false, residual = false;
  std::array<std::uint64_t, 8> algorithm{};
};

struct Plan {
  std::int32_t hidden_size = 0, vocab_size = 0;
  std::int32_t num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  DType model_dtype = DType::kF16;  ///< what K, V and Q are rounded to before quantization
  float softmax_scale = 0.0f;
  std::vector<float> rope_inv_freq;
  float rope_attention_factor = 1.0f;
  std::int32_t max_positions = 0;  ///< positions the rope tables are valid for; 0: any
  /// Powers of two by which the products of Q's and K's codes are smaller than the calibrated
  /// scales make them. Scales are larger by as much and codes saturate where the calibrated ones
  /// would, at `q_limit()` and `k_limit()`, so that sums of products are bounded (docs/numbers.md).
  /// 0 where Q is not quantized.
  std::int32_t qk_exponent_shift = 0;
  std::vector<LayerCache> caches;  ///< one per layer
  std::vector<PlanWeight> weights;
  std::vector<std::int32_t> slot_cols;
  Slot input_slot = 0;   ///< inputs_embeds
  Slot logits_slot = 0;  ///< [selected rows, vocab_size]; written once, by selected rows
  std::vector<Step> steps;
  std::string tuned_library;  ///< what `tuned` is valid for
  std::vector<TunedProduct> tuned;

  /// K takes half of the shift, Q the larger half.
  int k_exponent_shift() const { return qk_exponent_shift / 2; }
  int q_exponent_shift() const { return qk_exponent_shift - k_exponent_shift(); }
  /// Largest codes of Q and K.
  float q_limit() const { return std::ldexp(kE4m3Max, -q_exponent_shift()); }
  float k_limit() const { return std::ldexp(kE4m3Max, -k_exponent_shift()); }

  /// Whether no layer has FP16 queries over an FP8 cache.
  bool quantizes_queries() const;

  /// Bytes of cache that one token takes over all layers, scales aside.
  std::int64_t kv_bytes_per_token() const;
};

/// Largest Plan::qk_exponent_shift: more would leave no normal codes.
inline constexpr std::int32_t kMaxQkExponentShift = 16;

/// The shift with which no sum of `head_dim` products of Q's and K's codes passes FP16's 65,504: 9
/// for 128, 8 for 64.
std::int32_t half_score_shift(std::int32_t head_dim);

/// Gives a plan whose scales are the calibrated ones that shift.
void fold_exponent_shift(Plan& plan, std::int32_t shift);

/// Checks everything that a backend relies on: slots and weights in range, shapes that fit
/// each other, weights with all their bytes, positive finite scales, every slot written, and before
/// it is read, rows of one kind (all tokens, or selected ones) in a step, no step that writes over
/// its input (a residual may be written over), layers written and attended once each, in order.
Status validate(const Plan& plan);

/// What a step's result is called where values are compared: the step's number and the weight, or
/// the op and its layer.
std::string step_name(const Plan& plan, std::size_t step);

/// The slot that a step writes.
Slot written_slot(const Step& step);

/// Fails unless `embedding` is FP16 [vocab_size, hidden_size] with all its bytes.
Status check_embedding(const Plan& plan, const TensorView& embedding);

/// Bytes of all weights.
std::int64_t weight_bytes(const Plan& plan);

/// Bytes that one token takes with every layer's cache in FP8 or in FP16.
std::int64_t kv_bytes_per_token(const Plan& plan, DType cache_dtype);

}  // namespace kv8
