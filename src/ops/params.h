// Parameters of every op, as plain structs: what a backend is given and what the naive references
// in ops/reference.h compute. Activations are FP32 row-major [rows, cols] here; a GPU backend
// keeps them in FP16 with the same meaning.
#pragma once

#include <cstdint>

#include "formats/float_formats.h"
#include "ops/kv_layout.h"
#include "tensor/tensor.h"

namespace kv8 {

/// A weight matrix or vector in FP16, BF16 or FP32.
struct WeightView {
  DType dtype = DType::kF16;
  const void* data = nullptr;
};

/// out[r, c] = x[r, c] / sqrt(mean_c(x[r, c]^2) + eps) * weight[c]
struct RmsNormParams {
  const float* x = nullptr;
  WeightView weight;  ///< [cols]
  float* out = nullptr;
  std::int64_t rows = 0, cols = 0;
  float eps = 1e-5f;
};

/// out[r, o] = sum_i x[r, i] * weight[o, i] (+ bias[o]) (+ residual[r, o])
struct LinearParams {
  const float* x = nullptr;         ///< [rows, in]
  WeightView weight;                ///< [out, in]
  WeightView bias;                  ///< [out]; data == nullptr: none
  const float* residual = nullptr;  ///< [rows, out] or nullptr; may equal `out`
  float* out = nullptr;             ///< [rows, out]
  std::int64_t rows = 0, in = 0, out_features = 0;
};

/// out[r, c] = silu(gate_up[r, c]) * gate_up[r, cols + c]
struct SwiGluParams {
  const float* gate_up = nullptr;  ///< [rows, 2 * cols]: gate, then up
  float* out = nullptr;            ///< [rows, cols]
  std::int64_t rows = 0, cols = 0;
};

/// Dequant scales of one layer. K and V have `count` entries each: 1 (per tensor) or num_kv_heads.
/// Q has one.
struct KvScales {
  const float* k = nullptr;
  const float* v = nullptr;
  const float* q = nullptr;  ///< nullptr: Q stays unquantized
  int count = 1;
  float k_limit = kE4m3Max, q_limit = kE4m3Max;  ///< codes saturate there
};

/// One layer's cache. FP16 pages ignore `scales`.
struct KvCacheView {
  KvLayout layout;
  void* k = nullptr;
  void* v = nullptr;
  KvScales scales;
};

/// One sequence's part of a ragged batch. Its tokens are rows
/// [first_row, first_row + num_tokens) of the activations and have positions
/// [past_tokens, past_tokens + num_tokens).
struct SequenceSlice {
  std::int64_t first_row = 0;
  std::int32_t num_tokens = 0;
  std::int32_t past_tokens = 0;              ///< tokens already in the cache
  const std::int32_t* page_table = nullptr;  ///< pages of the sequence, in order
};

/// Normalises (optionally) and rotates Q and K, rounds K, V (and Q) once to `model_dtype`, stores K
/// and V in the cache and Q, dequantized if it was quantized, in `q_out`.
/// A stored FP8 code is e4m3(x / scale), IEEE FP32 division (see docs/numbers.md).
struct RopeKvWriteParams {
  const float* qkv = nullptr;  ///< [rows, (num_heads + 2 * num_kv_heads) * head_dim]: Q, K, V
  float* q_out = nullptr;      ///< [rows, num_heads * head_dim]
  int num_heads = 0;
  DType model_dtype = DType::kF16;  ///< kF16 or kBF16: what x is rounded to before the division
  WeightView q_norm, k_norm;        ///< [head_dim] RMS-norm weights (Qwen3) or no data
  float norm_eps = 1e-6f;
  const float* inv_freq = nullptr;  ///< [head_dim / 2]
  float rope_attention_factor = 1.0f;
  KvCacheView cache;
  const SequenceSlice* sequences = nullptr;
  int num_sequences = 0;
};

/// Causal grouped-query attention over the paged cache: the row of position p of a sequence sees
/// its tokens 0..p. out = softmax(softmax_scale * q k^T) v with dequantized K and V.
/// Slots of a page beyond the sequence's last token may hold anything, NaN included.
struct AttentionParams {
  const float* q = nullptr;  ///< [rows, num_heads * head_dim], as RopeKvWrite left it
  float* out = nullptr;      ///< [rows, num_heads * head_dim]
  int num_heads = 0;
  float softmax_scale = 0.0f;
  KvCacheView cache;
  const SequenceSlice* sequences = nullptr;
  int num_sequences = 0;
};

}  // namespace kv8
