// The decode kernels' parameter and what their compile-time shapes have in common.
#pragma once

#include <cstdint>

namespace kv8::decode {

struct DecodeKernelParams {
  const void* q;
  const uint8_t* k;
  const uint8_t* v;
  uint16_t* out;
  const int32_t* page_table;
  const int32_t* kv_lens;
  const float* q_scale;  ///< null: 1
  const float* k_scale;
  const float* v_scale;
  const float* v_offset;
  float* partial;      ///< [2 * blocks][kRows][head_dim] weighted sums, then peaks and sums
  uint32_t* counters;  ///< one a task: blocks that have handed in their part
  int scale_stride;    ///< 0: one scale, 1: one a KV head
  int batch;
  int q_len;
  int num_heads;
  int num_kv_heads;
  int group;      ///< query heads of a KV head
  int row_tiles;  ///< passes over a KV head: ceil(q_len * group / kRows)
  int max_pages;
  float score_scale;  ///< softmax_scale * log2(e)
  bool q_is_fp8;
  bool out_is_bf16;
};

/// Most rows (query tokens times heads of a group) that share one pass over a KV head.
inline constexpr int kMaxDecodeRows = 16;
/// Most blocks of a launch.
inline constexpr int kMaxDecodeBlocks = 256;

/// What all kernels have in common. kElem: bytes of a cached element. kRowCount: 8 or 16, the rows
/// whose softmax is computed. kWarpCount: the warps that compute.
template <int kElem, int kDim, int kRowCount, int kWarpCount>
struct DecodeShape {
  static constexpr int kElemBytes = kElem;
  static constexpr bool kFp8 = kElem == 1;
  static constexpr int kHeadDim = kDim;
  static constexpr int kRows = kRowCount;
  static constexpr int kWarps = kWarpCount;
  static constexpr int kPageBytes = 64 * kDim * kElem;  // of K or V of one head
  static constexpr int kKSteps = kDim / 16;
  static constexpr int kKLoads = kDim * kElem / 64;  // 16-byte loads of a lane for one key
  static constexpr int kMergePitch = kDim + 8;       // floats; no bank conflicts
  static constexpr int kMergeFloats = kWarps * kRows * (kMergePitch + 2);
  static_assert(kMergeFloats >= kMaxDecodeBlocks * kRows);
};

}  // namespace kv8::decode
