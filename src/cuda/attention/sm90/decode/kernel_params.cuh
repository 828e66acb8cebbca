// The kernel's parameter and its compile-time shape.
#pragma once

#include <cstdint>

namespace kv8::sm90 {

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

/// E: bytes of a cached element. kRows: 8 or 16, the rows whose softmax is computed.
template <int kElem, int kDim, int kRowCount>
struct DecodeShape {
  static constexpr int kElemBytes = kElem;
  static constexpr bool kFp8 = kElem == 1;
  static constexpr int kHeadDim = kDim;
  static constexpr int kRows = kRowCount;
  // Warps that compute; one more loads, and a ninth would cap registers at 168. The number of
  // stages is a multiple of theirs: each warp meets only stages that it emptied itself, whose phase
  // it cannot mistake (a parity tells only neighbouring phases apart). These make the most of the
  // shared memory.
  static constexpr int kWarps = kDim == 128 && kRowCount == 16 ? 5 : kDim * kElem == 64 ? 7 : 6;
  static constexpr int kThreads = 32 * (kWarps + 1);
  static constexpr int kPageBytes = 64 * kDim * kElem;  // of K or V of one head
  static constexpr int kStageBytes = 2 * kPageBytes;
  static constexpr int kKSteps = kDim / 16;
  static constexpr int kKLoads = kDim * kElem / 64;  // 16-byte loads of a lane for one key
  static constexpr int kMergePitch = kDim + 8;       // floats; no bank conflicts
  static constexpr int kMergeFloats = kWarps * kRows * (kMergePitch + 2);
  static constexpr int kMaxBlocks = 256;
  static constexpr int kSharedLimit = 227 * 1024;
  static constexpr int kFixedBytes = 4 * kMergeFloats + 1024;  // + barriers and flags
  static constexpr int kFit = (kSharedLimit - kFixedBytes) / kStageBytes;
  static constexpr int kStages = (kFit < 24 ? kFit : 24) / kWarps * kWarps;
  static constexpr int kSharedBytes = kStages * kStageBytes + kFixedBytes;
  static_assert(kStages >= kWarps && kMergeFloats >= kMaxBlocks * kRows);
};

}  // namespace kv8::sm90
