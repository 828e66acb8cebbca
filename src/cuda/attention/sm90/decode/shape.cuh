// The compile-time shape of a Hopper decode kernel.
#pragma once

#include "cuda/attention/decode/kernel_params.cuh"

namespace kv8::sm90 {

// Warps that compute; one more loads, and a ninth would cap registers at 168. The number of
// stages is a multiple of theirs: each warp meets only stages that it emptied itself, whose phase
// it cannot mistake (a parity tells only neighbouring phases apart). These make the most of the
// shared memory.
constexpr int decode_warps(int elem_bytes, int head_dim, int rows) {
  return head_dim == 128 && rows == 16 ? 5 : head_dim * elem_bytes == 64 ? 7 : 6;
}

template <int kElem, int kDim, int kRowCount>
struct RingShape
    : decode::DecodeShape<kElem, kDim, kRowCount, decode_warps(kElem, kDim, kRowCount)> {
  using Base = decode::DecodeShape<kElem, kDim, kRowCount, decode_warps(kElem, kDim, kRowCount)>;
  static constexpr int kThreads = 32 * (Base::kWarps + 1);
  static constexpr int kStageBytes = 2 * Base::kPageBytes;
  static constexpr int kSharedLimit = 227 * 1024;
  static constexpr int kFixedBytes = 4 * Base::kMergeFloats + 1024;  // + barriers and flags
  static constexpr int kFit = (kSharedLimit - kFixedBytes) / kStageBytes;
  static constexpr int kStages = (kFit < 24 ? kFit : 24) / Base::kWarps * Base::kWarps;
  static constexpr int kSharedBytes = kStages * kStageBytes + kFixedBytes;
  static_assert(kStages >= Base::kWarps);
};

}  // namespace kv8::sm90
