// The decode kernels' parameter and what their compile-time shapes have in common.
#pragma once

#include <cstdint>
#include <type_traits>

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
  const uint4* tree_mask;  ///< [batch][q_len], or null: causal
  float* partial;      ///< [2 * blocks]: [kRows][head_dim] weighted sums, [kRows] peaks and sums
  uint32_t* progress;  ///< pages that all blocks have requested; used on Hopper
  uint32_t* counters;  ///< one a task: blocks that have handed in their part
  int scale_stride;    ///< 0: one scale, 1: one a KV head
  int batch;
  int q_len;
  int num_heads;
  int num_kv_heads;
  int group;      ///< query heads of a KV head
  int row_tiles;  ///< passes over a KV head: ceil(q_len * group / kRows)
  int max_pages;
  float score_scale;          ///< softmax_scale * log2(e)
  uint64_t ordinary_l2_from;  ///< bytes of pages; the kernels for Hopper alone look at it
  bool q_is_fp8;
  bool out_is_bf16;
  bool dependent_launch;
};

/// Most rows (query tokens times heads of a group) that share one pass over a KV head.
inline constexpr int kMaxDecodeRows = 16;
/// Most query tokens of a sequence where a tree mask is given.
inline constexpr int kMaxTreeTokens = 128;
/// Most blocks of a launch.
inline constexpr int kMaxDecodeBlocks = 256;

/// What all kernels have in common. kElem: bytes of a cached element. kRowCount: 8 or 16, the rows
/// of a pass. kWarpCount: the warps that compute, on kPieceCount pieces of a page (1 or 2).
template <int kElem, int kDim, int kRowCount, int kWarpCount, int kPieceCount>
struct DecodeShape {
  static constexpr int kElemBytes = kElem;
  static constexpr bool kFp8 = kElem == 1;
  static constexpr int kHeadDim = kDim;
  static constexpr int kRows = kRowCount;
  static constexpr int kRowTiles = kRowCount / 8;
  static constexpr int kWarps = kWarpCount;
  static constexpr int kPieces = kPieceCount;
  static constexpr int kKeys = 64 / kPieces;            // of a piece
  static constexpr int kKeySteps = kKeys / 16;          // products that contract over them
  static constexpr int kLaneKeys = kKeys / 4;           // tokens that a lane holds of a V row
  static constexpr int kPageBytes = 64 * kDim * kElem;  // of K or V of one head
  static constexpr int kKSteps = kDim / 16;
  static constexpr int kKLoads = kDim * kElem / 64;  // 16-byte loads of a lane for one key
  static constexpr int kMergePitch = kDim + 4;       // floats; no bank conflicts
  static constexpr int kMergeFloats = kWarps * kRows * (kMergePitch + 2);
  using KeyBits = std::conditional_t<kKeys == 64, uint64_t, uint32_t>;
};

}  // namespace kv8::decode
