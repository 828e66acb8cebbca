// A consumer warpgroup: 64 query rows against a sequence's keys, last tile first.
//
// One key tile is Q·K^T, softmax, P·V, one after the other; the other warpgroups of the block keep
// the tensor core busy meanwhile. That order needs one set of scores in registers instead of two,
// which is what lets three or four warpgroups share an SM.
#pragma once

#include "cuda/attention/sm90/prefill/config.cuh"
#include "cuda/attention/sm90/prefill/softmax.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace kv8::sm90 {

/// Running state of a warpgroup's 64 rows, a thread's share; `out` in the wgmma accumulator's
/// layout.
template <class C>
struct RowState {
  float out[C::kHeadDim / 2];
  float offset[2];
  float sum[2];  ///< row sums: complete where rows of ones give them, else of this thread's columns

  __device__ void reset() {
#pragma unroll
    for (int i = 0; i < C::kHeadDim / 2; ++i) out[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      offset[r] = kNoOffset;
      sum[r] = 0.0f;
    }
  }
};

/// S = Q K^T for the keys of `kBlocks` pages: issued, not awaited.
template <class C, int kBlocks, class Element, int kCount>
__device__ __forceinline__ void issue_scores(Element (&s)[kCount], uint32_t q, uint32_t k) {
  constexpr int kStepsPerChunk = C::kChunkBytes / 32;
#pragma unroll
  for (int step = 0; step < C::kChunks * kStepsPerChunk; ++step) {
    const int chunk = step / kStepsPerChunk;
    const uint64_t a =
        ptx::k_major_descriptor<C::kChunkBytes>(q + chunk * C::kRows * C::kChunkBytes) +
        2 * (step % kStepsPerChunk);
    const uint64_t b =
        ptx::k_major_descriptor<C::kChunkBytes>(k + chunk * C::kKeys * C::kChunkBytes) +
        2 * (step % kStepsPerChunk);
    if constexpr (C::kHalfScores) {
      ptx::wgmma_e4m3_f16<64 * kBlocks>(s, a, b, step > 0);
    } else if constexpr (C::kFp8) {
      ptx::wgmma_e4m3_f32<64 * kBlocks>(s, a, b, step > 0);
    } else {
      ptx::wgmma_half_f32<64 * kBlocks>(s, a, b, step > 0);
    }
  }
}

/// Columns kFirst .. kFirst + kColumns - 1 of P V over `kBlocks` pages: issued, not awaited.
template <class C, int kBlocks, int kFirst, int kColumns, int kCount>
__device__ __forceinline__ void issue_values(float (&out)[kColumns / 2],
                                             const uint32_t (&p)[kCount], uint32_t v,
                                             bool accumulate) {
  constexpr int kStepsPerPage = C::kVRowBytes / 32;
#pragma unroll
  for (int step = 0; step < kBlocks * kStepsPerPage; ++step) {
    const uint64_t b = ptx::k_major_descriptor<C::kVRowBytes>(
                           v + step / kStepsPerPage * C::kVPageBytes + kFirst * C::kVRowBytes) +
                       2 * (step % kStepsPerPage);
    if constexpr (C::kFp8) {
      ptx::wgmma_e4m3_f32_registers<kColumns>(out, p + 4 * step, b, accumulate || step > 0);
    } else {
      ptx::wgmma_half_f32_registers<kColumns>(out, p + 4 * step, b, accumulate || step > 0);
    }
  }
}

/// out = out * decay + tile for the columns from kFirst; behind the last come the row sums, the
/// same in all eight columns.
template <class C, int kFirst, int kCount>
__device__ __forceinline__ void fold(RowState<C>& rows, const float (&decay)[2],
                                     const float (&tile)[kCount]) {
  constexpr int kValues =
      kFirst / 2 + kCount > C::kHeadDim / 2 ? C::kHeadDim / 2 - kFirst / 2 : kCount;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    float& sum = rows.out[kFirst / 2 + i];
    sum = fmaf(sum, decay[i / 2 % 2], tile[i]);
  }
  if constexpr (kValues < kCount) {
#pragma unroll
    for (int r = 0; r < 2; ++r) rows.sum[r] = fmaf(rows.sum[r], decay[r], tile[kValues + 2 * r]);
  }
}

/// out = out * decay + P V, the product in an accumulator of its own, one range of columns.
template <class C, int kBlocks, int kFirst, int kColumns, int kCount>
__device__ __forceinline__ void fold_values(RowState<C>& rows, const float (&decay)[2],
                                            uint32_t (&p)[kCount], uint32_t v) {
  float tile[kColumns / 2];
  ptx::begin(tile);
  ptx::pin(p);
  ptx::wgmma_fence();
  issue_values<C, kBlocks, kFirst, kColumns>(tile, p, v, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::pin(tile);
  ptx::pin(p);
  fold<C, kFirst>(rows, decay, tile);
}

/// The same for 128 columns and the ones, both halves in flight at once.
template <class C, int kBlocks, int kCount>
__device__ __forceinline__ void fold_values_at_once(RowState<C>& rows, const float (&decay)[2],
                                                    uint32_t (&p)[kCount], uint32_t v) {
  constexpr int kRest = C::kOutColumns - 64;
  float first[32], second[kRest / 2];
  ptx::begin(first);
  ptx::begin(second);
  ptx::pin(p);
  ptx::wgmma_fence();
  issue_values<C, kBlocks, 0, 64>(first, p, v, false);
  ptx::wgmma_commit();
  issue_values<C, kBlocks, 64, kRest>(second, p, v, false);
  ptx::wgmma_commit();
  ptx::wgmma_wait<1>();
  ptx::pin(first);
  fold<C, 0>(rows, decay, first);
  ptx::wgmma_wait<0>();
  ptx::pin(second);
  ptx::pin(p);
  fold<C, 64>(rows, decay, second);
}

/// One warp of a warpgroup at its place.
template <class C>
struct Consumer {
  SharedMemory<C> smem;
  int row_group;

  /// First row of this warpgroup in the block's tile.
  __device__ static int first_row() {
    return (ptx::thread_index() / 128 - 1) / C::kKeyGroups * kGroupRows;
  }
  __device__ static int lane() { return ptx::thread_index() % 32; }
  /// The first of this thread's two rows among the 64; the other is 8 below.
  __device__ static int thread_row() { return ptx::thread_index() % 128 / 32 * 16 + lane() / 4; }
  __device__ void release(uint32_t barrier) const {
    if (lane() == 0) ptx::mbarrier_arrive(barrier);
  }

  /// Attends to `kBlocks` pages of the tile at `cursor`, from page `first` of the tile.
  /// `last_key` is the last key that this warpgroup's row 0 sees, relative to page `first`.
  template <int kBlocks, bool kMasked>
  __device__ __forceinline__ void attend(RowState<C>& rows, StageCursor<C> cursor, uint32_t q,
                                         Scale<C> scale, int first, int last_key) const {
    using S = Scores<C, kBlocks>;
    typename S::Element s[S::kCount];
    ptx::mbarrier_wait(smem.k_full(cursor.slot()), cursor.parity());
    ptx::begin(s);
    ptx::wgmma_fence();
    issue_scores<C, kBlocks>(s, q + first_row() * C::kChunkBytes,
                             smem.k(cursor.slot()) + first * kPageRows * C::kChunkBytes);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::pin(s);
    if constexpr (kBlocks == C::kPages) release(smem.k_empty(cursor.slot()));

    if constexpr (kMasked) mask_scores(s, last_key + thread_row(), lane() % 4);
    float maxima[2], decay[2];
    row_maxima(s, maxima);
    raise_offsets<C>(maxima, scale, rows.offset, decay);
    const uint32_t v = smem.v(cursor.slot()) + first * C::kVPageBytes;
    if constexpr (C::kFold) {
      uint32_t p[kBlocks * kPageRows / 8];
      exponentiate<C>(s, rows.offset, scale, p, rows.sum);
      ptx::mbarrier_wait(smem.v_full(cursor.slot()), cursor.parity());
      if constexpr (C::kHeadDim == 64) {
        fold_values<C, kBlocks, 0, C::kOutColumns>(rows, decay, p, v);
      } else if constexpr (C::kRoomForTwoFolds) {
        fold_values_at_once<C, kBlocks>(rows, decay, p, v);
      } else {
        // One half after the other: a whole second accumulator does not fit.
        fold_values<C, kBlocks, 0, 64>(rows, decay, p, v);
        fold_values<C, kBlocks, 64, C::kOutColumns - 64>(rows, decay, p, v);
      }
    } else {
#pragma unroll
      for (int i = 0; i < C::kHeadDim / 2; ++i) rows.out[i] *= decay[i / 2 % 2];
      rows.sum[0] *= decay[0];
      rows.sum[1] *= decay[1];
      uint32_t p[kBlocks * kPageRows / 4];
      exponentiate<C>(s, rows.offset, scale, p, rows.sum);
      ptx::mbarrier_wait(smem.v_full(cursor.slot()), cursor.parity());
      ptx::pin(p);
      ptx::pin(rows.out);
      ptx::wgmma_fence();
      issue_values<C, kBlocks, 0, C::kHeadDim>(rows.out, p, v, true);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::pin(rows.out);
      ptx::pin(p);
    }
    if constexpr (kBlocks == C::kPages) release(smem.v_empty(cursor.slot()));
  }

  /// A tile that the causal limit cuts, page by page: those behind the limit are left out. `keys`:
  /// keys that any of the rows sees, relative to the tile, at least 1.
  __device__ __forceinline__ void attend_cut(RowState<C>& rows, StageCursor<C> cursor, uint32_t q,
                                             Scale<C> scale, int last_key, int keys) const {
    if constexpr (!C::kCutByPage || C::kPages == 1) {
      attend<C::kPages, true>(rows, cursor, q, scale, 0, last_key);
    } else {
      int page = min((keys - 1) / kPageRows, C::kPages - 1);
      for (; page >= 0; --page) {
        attend<1, true>(rows, cursor, q, scale, page, last_key - page * kPageRows);
      }
      release(smem.k_empty(cursor.slot()));
      release(smem.v_empty(cursor.slot()));
    }
  }

  /// Visits this warpgroup's share of the key tiles and moves the cursor over all of them.
  __device__ __forceinline__ void attend_all(RowState<C>& rows, const volatile TileInfo& info,
                                             StageCursor<C>& cursor, int key_group,
                                             uint32_t q) const {
    const Scale<C> scale(info.score_scale);
    const int last_key = info.diagonal + row_group * kGroupRows;  // of this warpgroup's row 0
    const int last_row = min(info.rows - row_group * kGroupRows, kGroupRows) - 1;
    const int keys = last_row < 0 ? 0 : min(last_key + last_row + 1, info.kv_len);
    int tile = info.key_tiles - 1;
    int turn = key_group;  // tiles until this key group's next one
    const auto mine = [&] {
      if (C::kKeyGroups == 1) return true;
      const bool now = turn == 0;
      turn = now ? C::kKeyGroups - 1 : turn - 1;
      return now;
    };
    // Tiles wholly behind this warpgroup's keys: seen to be full before they are given back, so
    // that no arrival runs a phase ahead.
    for (; tile >= 0 && tile * C::kKeys >= keys; --tile, cursor.advance()) {
      if (!mine()) continue;
      ptx::mbarrier_wait(smem.k_full(cursor.slot()), cursor.parity());
      release(smem.k_empty(cursor.slot()));
      ptx::mbarrier_wait(smem.v_full(cursor.slot()), cursor.parity());
      release(smem.v_empty(cursor.slot()));
    }
    for (; tile >= 0 && tile * C::kKeys + C::kKeys - 1 > last_key; --tile, cursor.advance()) {
      if (mine()) {
        attend_cut(rows, cursor, q, scale, last_key - tile * C::kKeys, keys - tile * C::kKeys);
      }
    }
    for (; tile >= 0; --tile, cursor.advance()) {
      if (mine()) attend<C::kPages, false>(rows, cursor, q, scale, 0, 0);
    }
  }
};

}  // namespace kv8::sm90
