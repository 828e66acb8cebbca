// What the RoPE + quantize + write kernel takes, as plain structs without CUDA types.
#pragma once

#include <cstdint>

#include "formats/float_formats.h"

namespace kv8 {

/// A scale as the kernel wants it: make_kv_scale.
struct alignas(8) KvScale {
  float scale = 0.0f;
  /// 1 / scale, rounded; the sign bit is set where e4m3(RN(x inverse)) is not e4m3(RN(x / scale))
  /// for every FP16 and BF16 value x.
  float inverse = 0.0f;
};

/// One launch: for every row of a ragged batch, normalises (optionally) and rotates Q and K, rounds
/// once to the model's type, transforms (optionally), and stores K and V in the paged cache and Q
/// packed: docs/numbers.md, bit for bit. Row i of sequence b (counting from cu_rows[b]) goes to
/// slot kv_lens[b] - (cu_rows[b + 1] - cu_rows[b]) + i of the sequence, which is its position too
/// unless `positions` says another; slots of other tokens stay untouched. All pointers are device
/// pointers.
struct KvWriteArgs {
  const void* qkv = nullptr;  ///< [rows][(num_heads + 2 * num_kv_heads) * head_dim], model's type
  void* q_out = nullptr;      ///< [rows][num_heads][head_dim], E4M3 or FP16
  void* k_pool = nullptr;     ///< pages as ops/kv_layout.h describes them, E4M3 or FP16
  void* v_pool = nullptr;
  const std::int32_t* page_table = nullptr;  ///< [batch][max_pages]
  const std::int32_t* cu_rows = nullptr;     ///< [batch + 1], from 0
  const std::int32_t* kv_lens = nullptr;     ///< [batch], the new tokens included

  /// [rows], or null. A token tree's positions; -1: a row of padding, whose Q is zero and whose
  /// slot stays as it is.
  const std::int32_t* positions = nullptr;

  /// [positions][head_dim / 2] as `make_rope_angles` computes them; every position of the batch is
  /// below `positions` there.
  const float* cos = nullptr;
  const float* sin = nullptr;
  const void* q_norm = nullptr;  ///< [head_dim] RMS-norm weights in the model's type, or null
  const void* k_norm = nullptr;
  float norm_eps = 1e-6f;

  const float* k_offset =
      nullptr;  ///< [num_kv_heads][head_dim] subtracted before rounding, or null
  const float* v_offset = nullptr;
  bool hadamard = false;  ///< rotate Q and K heads (Sylvester order, times 1 / sqrt(head_dim))

  /// code = e4m3(x / scale): Q's, K's and V's. Q's counts with FP8 queries, K's and V's with an FP8
  /// cache. By value, so that the kernel need not fetch them.
  KvScale scales[3];
  /// Instead of the three where heads differ: device memory [num_heads + 2 * num_kv_heads], one for
  /// every head of a row of `qkv`.
  const KvScale* head_scales = nullptr;
  /// Largest codes of Q and K: beyond, they saturate.
  float q_limit = kE4m3Max, k_limit = kE4m3Max;

  int batch = 0;
  int rows = 0;
  int max_rows_per_sequence = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;  ///< 64 or 128
  int max_pages = 0;

  bool bf16 = false;      ///< the model's type: BF16, else FP16
  bool fp8_cache = true;  ///< else FP16
  bool fp8_q = true;      ///< else FP16

  /// Start while the kernel before still runs and wait for its end before reading `qkv` or writing.
  /// No kernel that may still run then writes kv_lens, positions, cos, sin or head_scales.
  bool dependent_launch = false;
};

}  // namespace kv8
