// The compile-time shape of a Hopper decode kernel.
#pragma once

#include <algorithm>

#include "cuda/attention/decode/kernel_params.cuh"

namespace kv8::sm90 {

// Warps that compute, on half a page each; one more loads. With a ninth warp a thread has 168
// registers, which are too few for 16 rows of 128. A page's stage is free when both halves are
// done. The number of stages is a multiple of the pages at work: the two warps of a page meet only
// stages that they emptied themselves, whose phase they cannot mistake (a parity tells only
// neighbouring phases apart).
constexpr int decode_warps(int head_dim, int rows) { return head_dim == 128 && rows == 16 ? 6 : 8; }

/// `kInCluster`: a task's blocks form a cluster and leave their parts in 8 bytes an output of it.
template <int kElem, int kDim, int kRowCount, bool kInCluster = false>
struct RingShape : decode::DecodeShape<kElem, kDim, kRowCount, decode_warps(kDim, kRowCount), 2> {
  using Base = decode::DecodeShape<kElem, kDim, kRowCount, decode_warps(kDim, kRowCount), 2>;
  static constexpr int kThreads = 32 * (Base::kWarps + 1);
  static constexpr int kPagesAtOnce = Base::kWarps / Base::kPieces;
  static constexpr int kStageBytes = 2 * Base::kPageBytes;
  static constexpr int kSharedLimit = 227 * 1024;
  static constexpr bool kCluster = kInCluster;
  static constexpr int kPartBytes = kCluster ? 8 * kRowCount * kDim : 0;
  static constexpr int kFixedBytes =
      4 * Base::kMergeFloats + kPartBytes + 768;  // + barriers, flags
  static constexpr int kFit = (kSharedLimit - kFixedBytes) / kStageBytes;
  // What a block has under way while it is paced (pace.cuh); its ring holds more. Rings of more
  // than eight pages, where those are more than that, only let some multiprocessors run ahead of
  // others (docs).
  static constexpr int kPacedBytes = 64 * 1024;
  static constexpr int kMostStages = !kCluster && 8 * kStageBytes <= kPacedBytes ? 12 : 8;
  static constexpr int kStages = std::min(kFit, kMostStages) / kPagesAtOnce * kPagesAtOnce;
  static constexpr int kSharedBytes = kStages * kStageBytes + kFixedBytes;
  static constexpr int kLoadPages = std::min(kStages / 2, 4);  // that the loader takes together
  static constexpr bool kPaced = kStages * kStageBytes > kPacedBytes;
  // No stage that the loader waits for is filled anew by the pages that it takes together.
  static constexpr int kPacedPages = std::min(kPacedBytes / kStageBytes, kStages - kLoadPages);
  static_assert(kStages >= kPagesAtOnce);
};

}  // namespace kv8::sm90
