// What the decode attention kernels take, as plain structs without CUDA types.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/attention/sm90/prefill/params.h"

namespace kv8::sm90 {

/// Most rows (query tokens times heads of a group) that share one pass over a KV head.
inline constexpr int kMaxDecodeRows = 16;

/// One launch: each sequence's last `q_len` tokens attend to its paged cache; token i of a sequence
/// sees keys 0 .. i + kv_len - q_len, and one that sees none gives zeros. Lengths and pages are
/// read on the device, so that a captured launch may be replayed with other ones. All pointers are
/// device pointers.
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

  /// `decode_workspace_bytes` bytes, 16-byte aligned, zeroed once. A launch leaves it ready for the
  /// next; launches that may overlap need workspaces of their own.
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
};

}  // namespace kv8::sm90
