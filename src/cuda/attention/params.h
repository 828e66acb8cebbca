// What the attention kernels of all families take, as plain structs without CUDA types, so that
// selection and callers build without a CUDA compiler.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kv8 {

/// Element type of Q, K and V.
enum class KvType { kE4m3, kF16 };
/// Element type of the output.
enum class OutType { kF16, kBf16 };
/// Narrowest accumulator of Q·K^T that a kernel may use. kF16 is exact enough only while
/// |q·k| < 65,504 in stored units; see `score_type_for` in attention.h.
enum class ScoreType { kF32, kF16 };

/// One prefill launch: causal grouped-query attention of new tokens over a paged cache. Row i of a
/// sequence with `q_len` new and `kv_len` cached tokens (the new ones included) sees keys 0 .. i +
/// kv_len - q_len. Rows that see no key give zeros. All pointers are device pointers.
struct PrefillArgs {
  const void* q = nullptr;       ///< [total_q_tokens][num_heads][head_dim], packed, type `q_type`
  const void* k_pool = nullptr;  ///< pages as ops/kv_layout.h describes them
  const void* v_pool = nullptr;
  void* out = nullptr;  ///< [total_q_tokens][num_heads][head_dim], type `out_type`

  const std::int32_t* page_table = nullptr;    ///< [batch][max_pages]; entries < num_pages
  const std::int32_t* cu_seqlens_q = nullptr;  ///< [batch + 1], token offsets into q, from 0
  const std::int32_t* kv_lens = nullptr;       ///< [batch]

  /// real = stored * scale, FP32. One value, or one a KV head where `scale_per_head`. K's and V's
  /// are needed with FP8 KV, Q's with FP8 Q; the others must be null.
  const float* q_scale = nullptr;
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  bool scale_per_head = false;
  const float* v_offset = nullptr;  ///< [num_kv_heads][head_dim], added to the output; may be null

  /// Two 32-bit words, zero before the first launch; every launch leaves them zero. Launches that
  /// may overlap need words of their own.
  std::uint32_t* scheduler = nullptr;

  int batch = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int total_q_tokens = 0;
  int max_q_len = 0;           ///< longest q_len of the batch
  int max_kv_len = 0;          ///< longest kv_len of the batch (selection only)
  int num_pages = 0;           ///< pages in each pool
  int max_pages = 0;           ///< row length of page_table
  float softmax_scale = 0.0f;  ///< 1 / sqrt(head_dim) as a rule

  KvType kv_type = KvType::kE4m3;
  KvType q_type = KvType::kE4m3;  ///< E4M3 with an E4M3 cache only
  OutType out_type = OutType::kF16;
  ScoreType score_type = ScoreType::kF32;
};

/// One decode launch: each sequence's last `q_len` tokens attend to its paged cache; token i of a
/// sequence sees keys 0 .. i + kv_len - q_len, or what `tree_mask` says, and one that sees none
/// gives zeros. Lengths and
/// pages are read on the device, so that a captured launch may be replayed with other ones. All
/// pointers are device pointers.
struct DecodeArgs {
  const void* q = nullptr;       ///< [batch][q_len][num_heads][head_dim], type `q_type`
  const void* k_pool = nullptr;  ///< pages as ops/kv_layout.h describes them, 16-byte aligned
  const void* v_pool = nullptr;
  void* out = nullptr;  ///< [batch][q_len][num_heads][head_dim], type `out_type`

  const std::int32_t* page_table = nullptr;  ///< [batch][max_pages]
  const std::int32_t* kv_lens = nullptr;     ///< [batch], the new tokens included

  /// real = stored * scale, FP32. One value, or one a KV head where `scale_per_head`. K's and V's
  /// are needed with FP8 KV, Q's with FP8 Q; the others must be null.
  const float* q_scale = nullptr;
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  bool scale_per_head = false;
  const float* v_offset = nullptr;  ///< [num_kv_heads][head_dim], added to the output; may be null

  /// Null: causal. Else the query tokens of a sequence, at most 128, form a tree: token i sees all
  /// keys before the first of them, and token j of them where bit j % 32 of word j / 32 is set.
  /// [batch][q_len][4], 16-byte aligned. Bits from q_len on are ignored.
  const std::uint32_t* tree_mask = nullptr;

  /// `decode_workspace_bytes` bytes, 16-byte aligned, zeroed once. A launch leaves it ready for the
  /// next, whatever its shape; launches that may overlap need workspaces of their own.
  void* workspace = nullptr;

  int batch = 0;
  int q_len = 1;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;   ///< 64 or 128
  int max_pages = 0;  ///< row length of page_table
  float softmax_scale = 0.0f;

  KvType kv_type = KvType::kE4m3;
  KvType q_type = KvType::kE4m3;
  OutType out_type = OutType::kF16;

  /// Start while the kernel before still runs, where the kernel can, and fetch keys that are older
  /// than the query tokens until it ends. They, the lengths and the page table must be in place
  /// before that kernel starts.
  bool dependent_launch = false;
};

}  // namespace kv8
