// What a computing warp of every decode kernel does with a task: its queries, then page by page.
#pragma once

#include "cuda/attention/decode/merge.cuh"

namespace kv8::decode {

/// A lane's dims of a query row, as the K loads deal them: 16 bytes of the cache's type at a time.
/// All loads are under way before the first is used.
template <class C>
__device__ __forceinline__ void load_query(const DecodeKernelParams& params, int64_t at, int q,
                                           uint2 (&pairs)[C::kKSteps]) {
  constexpr int kDims = 16 / C::kElemBytes;  // contiguous
  if (params.q_is_fp8) {
    const uint8_t* from = static_cast<const uint8_t*>(params.q) + at + kDims * q;
    uint32_t codes[C::kKSteps];
#pragma unroll
    for (int step = 0; step < C::kKSteps; ++step) {
      codes[step] = __ldg(reinterpret_cast<const uint32_t*>(from + 4 * kDims * (4 * step / kDims) +
                                                            4 * step % kDims));
    }
#pragma unroll
    for (int step = 0; step < C::kKSteps; ++step) {
      pairs[step] = ptx::e4m3_to_half_pairs(codes[step]);
    }
  } else {
    const uint16_t* from = static_cast<const uint16_t*>(params.q) + at + kDims * q;
#pragma unroll
    for (int step = 0; step < C::kKSteps; ++step) {
      pairs[step] = __ldg(
          reinterpret_cast<const uint2*>(from + 4 * kDims * (4 * step / kDims) + 4 * step % kDims));
    }
  }
}

/// Fragments of the task's query rows; rows that do not exist are zero.
template <class C>
__device__ __forceinline__ void load_queries(const DecodeKernelParams& params, const TaskRows& task,
                                             int g, int q,
                                             uint32_t (&rows)[C::kKSteps][C::kRowTiles][2]) {
#pragma unroll
  for (int n = 0; n < C::kRowTiles; ++n) {
    const int row = g + 8 * n;
    uint2 pairs[C::kKSteps];
    load_query<C>(params, row_offset(params, task, min(row, task.rows - 1), C::kHeadDim), q, pairs);
#pragma unroll
    for (int step = 0; step < C::kKSteps; ++step) {
      rows[step][n][0] = row < task.rows ? pairs[step].x : 0;
      rows[step][n][1] = row < task.rows ? pairs[step].y : 0;
    }
  }
}

/// The lowest `count` bits, of which there may be fewer than none or more than 64.
__device__ __forceinline__ uint64_t low_bits(int count) {
  return count <= 0 ? 0 : count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

/// Keys that query token `token` of a sequence sees, a bit for each of 64 from key `first` on.
__device__ __forceinline__ uint64_t visible_keys(const DecodeKernelParams& params, int batch,
                                                 int kv_len, int token, int first) {
  const int before = kv_len - params.q_len - first;  // keys ahead of the query tokens' own
  if (params.tree_mask == nullptr) return low_bits(before + 1 + token);
  const uint4 words = params.tree_mask[int64_t{batch} * params.q_len + token];
  const uint64_t low = words.x | uint64_t{words.y} << 32, high = words.z | uint64_t{words.w} << 32;
  uint64_t tree = 0;
  if (before >= 0) {
    if (before < 64) tree = low << before;
  } else if (before > -64) {
    tree = low >> -before | high << (64 + before);
  } else if (before > -128) {
    tree = high >> (-before - 64);
  }
  return (low_bits(before) | tree) & low_bits(kv_len - first);
}

/// A task's queries in registers, and which keys they see.
template <class C>
struct TaskQueries {
  uint32_t rows[C::kKSteps][C::kRowTiles][2];
  float scale;  ///< of the scores, as exponents of 2
  int kv_len;
  int seen_by_all;  ///< keys that every query token sees

  __device__ __forceinline__ TaskQueries(const DecodeKernelParams& params, const Segment& s,
                                         const TaskRows& task, int g, int q)
      : kv_len(s.kv_len),
        seen_by_all(s.kv_len - params.q_len + (params.tree_mask == nullptr ? 1 : 0)) {
    load_queries<C>(params, task, g, q, rows);
    const int scale_index = task.kv_head * params.scale_stride;
    scale = params.score_scale * scale_at(params.q_scale, scale_index) *
            scale_at(params.k_scale, scale_index);
  }

  /// Keys that the lane's query rows see of the piece that begins at key `first`; returns those
  /// that any row of the task sees.
  __device__ __forceinline__ typename C::KeyBits visible(
      const DecodeKernelParams& params, const TaskRows& task, int first, int q,
      typename C::KeyBits (&bits)[C::kRowTiles][2]) const {
    uint64_t any = 0;
#pragma unroll
    for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int row = 8 * n + 2 * q + c;
        const uint64_t seen = row < task.rows
                                  ? visible_keys(params, task.batch, kv_len,
                                                 (task.first_row + row) / params.group, first)
                                  : 0;
        bits[n][c] = static_cast<typename C::KeyBits>(seen);
        any |= seen;
      }
    }
    const uint32_t low = __reduce_or_sync(kAllLanes, static_cast<uint32_t>(any));
    const uint32_t high = __reduce_or_sync(kAllLanes, static_cast<uint32_t>(any >> 32));
    return static_cast<typename C::KeyBits>(low | uint64_t{high} << 32);
  }
};

/// Which keys of a piece any row of the task sees, where that are not all.
template <class C>
struct SeenKeys {
  bool masked;
  typename C::KeyBits bits;
};

/// Softmax of piece `piece` of the sequence: what its values weigh, relative to the state's peak.
template <class C>
__device__ __forceinline__ SeenKeys<C> weigh_keys(RowState<C>& state,
                                                  const DecodeKernelParams& params,
                                                  const TaskRows& task,
                                                  const TaskQueries<C>& queries, int piece,
                                                  Scores<C>& scores, Weights<C>& weights, int g,
                                                  int q) {
  const int first = piece * C::kKeys;
  SeenKeys<C> seen{first + C::kKeys > queries.seen_by_all, 0};
  if (seen.masked) {
    typename C::KeyBits bits[C::kRowTiles][2];
    seen.bits = queries.visible(params, task, first, q, bits);
    hide_scores<C>(scores, bits, g);
  }
  soften<C>(state, scores, queries.scale);
  transpose_weights<C>(weights, scores);
  return seen;
}

/// Adds the weighted values of piece `piece`. `v_page`: shared address of the page that holds it.
template <class C>
__device__ __forceinline__ void absorb_values(RowState<C>& state, int piece,
                                              const Weights<C>& weights, const SeenKeys<C>& seen,
                                              uint32_t v_page, int g, int q) {
  const uint32_t v_piece = v_page + piece % C::kPieces * (C::kKeys * C::kElemBytes);
  if (seen.masked) {
    weigh_values<C, true>(state, v_piece, weights, seen.bits, g, q);
  } else {
    weigh_values<C, false>(state, v_piece, weights, 0, g, q);
  }
}

/// Scores of piece `piece`. `k_page`: shared address of the page that holds it.
template <class C>
__device__ __forceinline__ void score_page(Scores<C>& scores, const TaskQueries<C>& queries,
                                           int piece, uint32_t k_page, int g, int q) {
  const int within = piece % C::kPieces * C::kKeys;
  score_piece<C>(k_page + within * (C::kHeadDim * C::kElemBytes), queries.rows, g, q, scores);
}

}  // namespace kv8::decode
