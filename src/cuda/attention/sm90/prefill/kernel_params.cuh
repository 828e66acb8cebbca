// The kernel's one parameter: PrefillArgs as the device wants it.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace kv8::sm90 {

struct KernelParams {
  CUtensorMap q_map;  ///< {head_dim, heads, tokens}, box {row chunk, 1, rows of a tile}
  CUtensorMap k_map;  ///< {head_dim, pages * kv_heads * 64}, box {row chunk, 64}
  CUtensorMap v_map;  ///< {64, pages * kv_heads * head_dim}, box {64, head_dim}
  void* out;
  const int32_t* page_table;
  const int32_t* cu_seqlens_q;
  const int32_t* kv_lens;
  const float* q_scale;  ///< null: 1
  const float* k_scale;
  const float* v_scale;
  const float* v_offset;
  uint32_t* scheduler;
  int scale_stride;  ///< 0: one scale, 1: one a KV head
  int batch;
  int num_heads;
  int num_kv_heads;
  int max_pages;
  int row_blocks;   ///< query tiles of the longest sequence
  int total_tiles;  ///< row_blocks * batch * num_heads
  float score_scale;  ///< softmax_scale * log2(e)
  int out_is_bf16;
};

}  // namespace kv8::sm90
