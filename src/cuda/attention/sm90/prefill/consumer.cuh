// A consumer warpgroup: 64 query rows against a sequence's keys, last tile first.
//
// The serial loop does Q·K^T, softmax and P·V of one key tile, one after the other; the other
// warpgroups of the block keep the tensor core busy meanwhile. That order needs one set of scores
// in registers instead of two, which is what lets three or four warpgroups share an SM. The
// overlapped loop issues the next tile's Q·K^T and this tile's P·V together and does the next
// tile's softmax under the latter.
#pragma once

#include "cuda/attention/sm90/prefill/config.cuh"
#include "cuda/attention/sm90/prefill/kernel_params.cuh"
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

/// What accumulation in `wgmma` takes before the next product.
template <class C>
__device__ __forceinline__ void decay_output(RowState<C>& rows, const float (&decay)[2]) {
#pragma unroll
  for (int i = 0; i < C::kHeadDim / 2; ++i) rows.out[i] *= decay[i / 2 % 2];
}

/// P V of all columns in flight. Where it is folded it has accumulators of its own, 64 columns and
/// the rest; else it goes on top of `rows.out`, which has taken its decay before.
template <class C>
struct ValueProduct {
  static constexpr int kFirstColumns = C::kFold && C::kHeadDim == 128 ? 64 : C::kOutColumns;
  static constexpr int kRest = C::kOutColumns - kFirstColumns;
  static constexpr int kGroups = C::kFold && kRest > 0 ? 2 : 1;  ///< committed by `issue`
  float first[C::kFold ? kFirstColumns / 2 : 1];
  float second[kRest > 0 ? kRest / 2 : 1];

  /// Before the fence that precedes `issue`.
  template <int kCount>
  __device__ __forceinline__ void prepare(RowState<C>& rows, uint32_t (&p)[kCount]) {
    if constexpr (C::kFold) {
      ptx::begin(first);
      if constexpr (kRest > 0) ptx::begin(second);
    } else {
      ptx::pin(rows.out);
    }
    ptx::pin(p);
  }
  template <int kBlocks, int kCount>
  __device__ __forceinline__ void issue(RowState<C>& rows, const uint32_t (&p)[kCount],
                                        uint32_t v) {
    if constexpr (!C::kFold) {
      issue_values<C, kBlocks, 0, C::kHeadDim>(rows.out, p, v, true);
    } else {
      issue_values<C, kBlocks, 0, kFirstColumns>(first, p, v, false);
      if constexpr (kRest > 0) {
        ptx::wgmma_commit();
        issue_values<C, kBlocks, kFirstColumns, kRest>(second, p, v, false);
      }
    }
    ptx::wgmma_commit();
  }
  /// Waits for everything in flight.
  template <int kCount>
  __device__ __forceinline__ void finish(RowState<C>& rows, uint32_t (&p)[kCount],
                                         const float (&decay)[2]) {
    if constexpr (C::kFold) {
      if constexpr (kRest > 0) {
        ptx::wgmma_wait<1>();
        ptx::pin(first);
        fold<C, 0>(rows, decay, first);
        ptx::wgmma_wait<0>();
        ptx::pin(second);
        fold<C, kFirstColumns>(rows, decay, second);
      } else {
        ptx::wgmma_wait<0>();
        ptx::pin(first);
        fold<C, 0>(rows, decay, first);
      }
    } else {
      ptx::wgmma_wait<0>();
      ptx::pin(rows.out);
    }
    ptx::pin(p);
  }
};

/// First row of this warpgroup in the block's tile.
template <class C>
__device__ __forceinline__ int first_row() {
  return (ptx::thread_index() / 128 - 1) / C::kKeyGroups * kGroupRows;
}

/// The key tiles of one key group, last first. `cursor` moves over the others' tiles as well.
/// Limits are worked out anew for every tile that needs them: registers are scarce.
template <class C>
struct KeySteps {
  const KernelParams& params;
  TileView info;
  StageCursor<C>& cursor;
  int tile;

  __device__ void skip(int tiles) {
    for (int i = 0; i < tiles && tile >= 0; ++i, --tile) cursor.advance();
  }
  __device__ void next() { skip(C::kKeyGroups); }
  __device__ bool done() const { return tile < 0; }
  /// Last key that the query tile's token `token` sees, relative to the key tile.
  __device__ int last_key(int token) const { return info.diagonal() + token - tile * C::kKeys; }
  /// The tile's token that a row belongs to.
  __device__ int token_of(int row) const { return params.packed_heads.divide(row); }
  /// Keys that any of this warpgroup's rows sees, relative to the key tile.
  __device__ int keys() const {
    const int last_row = min(info.rows(), first_row<C>() + kGroupRows) - 1;
    if (last_row < first_row<C>()) return 0;
    return min(last_key(token_of(last_row)) + 1, info.kv_len() - tile * C::kKeys);
  }
  /// The whole tile is behind this warpgroup's keys.
  __device__ bool unseen() const { return tile >= 0 && keys() <= 0; }
  /// The causal limit cuts the tile.
  __device__ bool cut() const {
    return tile >= 0 && last_key(token_of(first_row<C>())) < C::kKeys - 1;
  }
};

/// One warp of a warpgroup at its place.
template <class C>
struct Consumer {
  SharedMemory<C> smem;
  const KernelParams& params;

  template <int kBlocks>
  using Probabilities = uint32_t[kBlocks * kPageRows / (C::kFp8 ? 8 : 4)];
  template <int kBlocks>
  using ScoreArray = typename Scores<C, kBlocks>::Element[Scores<C, kBlocks>::kCount];

  __device__ static int lane() { return ptx::thread_index() % 32; }
  /// The first of this thread's two rows in the block's tile; the other is 8 below.
  __device__ static int thread_row() {
    return first_row<C>() + ptx::thread_index() % 128 / 32 * 16 + lane() / 4;
  }
  __device__ void release(uint32_t barrier) const {
    if (lane() == 0) ptx::mbarrier_arrive(barrier);
  }

  /// Q·K^T of the first `kBlocks` pages of the tile at `cursor`: issued, not awaited.
  template <int kBlocks>
  __device__ __forceinline__ void start_scores(ScoreArray<kBlocks>& s, StageCursor<C> cursor,
                                               uint32_t q) const {
    ptx::begin(s);
    ptx::wgmma_fence();
    issue_scores<C, kBlocks>(s, q + first_row<C>() * C::kChunkBytes, smem.k(cursor.slot()));
    ptx::wgmma_commit();
  }

  /// Scores of keys that a row does not see become minus infinity.
  template <int kBlocks>
  __device__ __forceinline__ void mask(ScoreArray<kBlocks>& s, const KeySteps<C>& steps) const {
    const int row = thread_row();
    const int last_key[2] = {steps.last_key(steps.token_of(row)),
                             steps.last_key(steps.token_of(row + 8))};
    mask_scores(s, last_key, lane() % 4);
  }

  /// Scores to probabilities, not yet packed. `decay` is what earlier sums take.
  template <int kBlocks>
  __device__ __forceinline__ void softmax(RowState<C>& rows, ScoreArray<kBlocks>& s, Scale<C> scale,
                                          float (&decay)[2]) const {
    float maxima[2];
    row_maxima(s, maxima);
    raise_offsets<C>(maxima, scale, rows.offset, decay);
    if constexpr (!C::kFold) {
      rows.sum[0] *= decay[0];
      rows.sum[1] *= decay[1];
    }
    exponentiate<C>(s, rows.offset, scale, rows.sum);
  }

  /// Attends to the first `kBlocks` pages of a tile, one product after the other.
  template <int kBlocks, bool kMasked>
  __device__ __forceinline__ void attend(RowState<C>& rows, const KeySteps<C>& steps, uint32_t q,
                                         Scale<C> scale) const {
    const StageCursor<C>& cursor = steps.cursor;
    ScoreArray<kBlocks> s;
    ptx::mbarrier_wait(smem.k_full(cursor.slot()), cursor.parity());
    start_scores<kBlocks>(s, cursor, q);
    ptx::wgmma_wait<0>();
    ptx::pin(s);
    release(smem.k_empty(cursor.slot()));
    if constexpr (kMasked) mask<kBlocks>(s, steps);
    float decay[2];
    softmax<kBlocks>(rows, s, scale, decay);
    Probabilities<kBlocks> p;
    pack<C>(s, p);
    ptx::mbarrier_wait(smem.v_full(cursor.slot()), cursor.parity());
    const uint32_t v = smem.v(cursor.slot());
    if constexpr (C::kFold && C::kHeadDim == 128 && !C::kRoomForTwoFolds) {
      // One half after the other: a whole second accumulator does not fit.
      fold_values<C, kBlocks, 0, 64>(rows, decay, p, v);
      fold_values<C, kBlocks, 64, C::kOutColumns - 64>(rows, decay, p, v);
    } else {
      ValueProduct<C> product;
      if constexpr (!C::kFold) decay_output(rows, decay);
      product.prepare(rows, p);
      ptx::wgmma_fence();
      product.template issue<kBlocks>(rows, p, v);
      product.finish(rows, p, decay);
    }
    release(smem.v_empty(cursor.slot()));
  }

  /// A tile that the causal limit cuts, without the pages behind the limit.
  __device__ __forceinline__ void attend_cut(RowState<C>& rows, const KeySteps<C>& steps,
                                             uint32_t q, Scale<C> scale) const {
    const int keys = steps.keys();
    if (C::kPages == 1 || keys <= kPageRows) {
      attend<1, true>(rows, steps, q, scale);
    } else if (C::kPages == 2 || keys <= 2 * kPageRows) {
      attend<(C::kPages >= 2 ? 2 : 1), true>(rows, steps, q, scale);
    } else {
      attend<C::kPages, true>(rows, steps, q, scale);
    }
  }

  __device__ __forceinline__ void attend_serially(RowState<C>& rows, KeySteps<C>& steps, uint32_t q,
                                                  Scale<C> scale) const {
    for (; steps.cut(); steps.next()) attend_cut(rows, steps, q, scale);
    for (; !steps.done(); steps.next()) attend<C::kPages, false>(rows, steps, q, scale);
  }

  /// One step of the overlapped loop: P·V of the tile at `pending`, whose probabilities are `p`,
  /// and the scores of the tile at `steps`, whose probabilities replace them.
  __device__ __forceinline__ void overlap(RowState<C>& rows, const KeySteps<C>& steps,
                                          StageCursor<C>& pending, uint32_t q, Scale<C> scale,
                                          Probabilities<C::kPages>& p, float (&decay)[2]) const {
    ScoreArray<C::kPages> s;
    ValueProduct<C> product;
    // No wait may come between the two products, or ptxas serialises them.
    ptx::mbarrier_wait(smem.v_full(pending.slot()), pending.parity());
    ptx::mbarrier_wait(smem.k_full(steps.cursor.slot()), steps.cursor.parity());
    product.prepare(rows, p);
    start_scores<C::kPages>(s, steps.cursor, q);
    product.template issue<C::kPages>(rows, p, smem.v(pending.slot()));
    ptx::wgmma_wait<ValueProduct<C>::kGroups>();
    ptx::pin(s);
    release(smem.k_empty(steps.cursor.slot()));
    float next_decay[2];
    if (steps.cut()) mask<C::kPages>(s, steps);
    softmax<C::kPages>(rows, s, scale, next_decay);
    ptx::pin(s);  // or the compiler moves the exponentials behind the wait
    product.finish(rows, p, decay);
    release(smem.v_empty(pending.slot()));
    pending = steps.cursor;
    if constexpr (!C::kFold) decay_output(rows, next_decay);
    pack<C>(s, p);  // not earlier: the product in flight reads `p`
    decay[0] = next_decay[0];
    decay[1] = next_decay[1];
  }

  __device__ __forceinline__ void attend_overlapped(RowState<C>& rows, KeySteps<C>& steps,
                                                    uint32_t q, Scale<C> scale) const {
    // The last tile is short where the causal limit leaves pages out.
    if (C::kPages > 1 && !steps.done() && steps.keys() <= (C::kPages - 1) * kPageRows) {
      attend_cut(rows, steps, q, scale);
      steps.next();
    }
    if (steps.done()) return;
    Probabilities<C::kPages> p;
    float decay[2];
    StageCursor<C> pending = steps.cursor;
    {
      ScoreArray<C::kPages> s;
      ptx::mbarrier_wait(smem.k_full(steps.cursor.slot()), steps.cursor.parity());
      start_scores<C::kPages>(s, steps.cursor, q);
      ptx::wgmma_wait<0>();
      ptx::pin(s);
      release(smem.k_empty(steps.cursor.slot()));
      if (steps.cut()) mask<C::kPages>(s, steps);
      softmax<C::kPages>(rows, s, scale, decay);
      if constexpr (!C::kFold) decay_output(rows, decay);
      pack<C>(s, p);
    }
    steps.next();
    for (; !steps.done(); steps.next()) overlap(rows, steps, pending, q, scale, p, decay);
    ValueProduct<C> product;
    product.prepare(rows, p);
    ptx::mbarrier_wait(smem.v_full(pending.slot()), pending.parity());
    ptx::wgmma_fence();
    product.template issue<C::kPages>(rows, p, smem.v(pending.slot()));
    product.finish(rows, p, decay);
    release(smem.v_empty(pending.slot()));
  }

  /// Visits this warpgroup's share of the key tiles and moves the cursor over all of them.
  __device__ __forceinline__ void attend_all(RowState<C>& rows, TileView info,
                                             StageCursor<C>& cursor, int key_group,
                                             uint32_t q) const {
    const Scale<C> scale(info.score_scale());
    KeySteps<C> steps{params, info, cursor, info.key_tiles() - 1};
    steps.skip(key_group);
    // Tiles behind this warpgroup's keys are seen to be full before they are given back, so that no
    // arrival runs a phase ahead.
    for (; steps.unseen(); steps.next()) {
      ptx::mbarrier_wait(smem.k_full(cursor.slot()), cursor.parity());
      release(smem.k_empty(cursor.slot()));
      ptx::mbarrier_wait(smem.v_full(cursor.slot()), cursor.parity());
      release(smem.v_empty(cursor.slot()));
    }
    if constexpr (C::kLoop == Loop::kSerial) {
      attend_serially(rows, steps, q, scale);
    } else {
      attend_overlapped(rows, steps, q, scale);
    }
  }
};

}  // namespace kv8::sm90
