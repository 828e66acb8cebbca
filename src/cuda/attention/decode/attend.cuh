// What a computing warp of every decode kernel does with a task: its queries, then page by page.
#pragma once

#include "cuda/attention/decode/merge.cuh"

namespace kv8::decode {

/// Fragments of the task's query rows; rows that do not exist are zero.
template <class C>
__device__ __forceinline__ void load_queries(const DecodeKernelParams& params, const TaskRows& task,
                                             int g, int q, uint32_t (&rows)[C::kKSteps][4]) {
  constexpr int kStepsPerLoad = C::kFp8 ? 4 : 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = g + 8 * r;
    const bool exists = row < task.rows;
    const int64_t at = exists ? row_offset(params, task, row, C::kHeadDim) : 0;
#pragma unroll
    for (int step = 0; step < C::kKSteps; ++step) {
      const int dim =
          16 / C::kElemBytes * (4 * (step / kStepsPerLoad) + q) + 4 * (step % kStepsPerLoad);
      uint2 pairs = make_uint2(0, 0);
      if (exists && params.q_is_fp8) {
        const uint32_t codes =
            *reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(params.q) + at + dim);
        pairs =
            make_uint2(ptx::e4m3_to_half_pair(codes & 0xffff), ptx::e4m3_to_half_pair(codes >> 16));
      } else if (exists) {
        pairs = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(params.q) + at + dim);
      }
      rows[step][r] = pairs.x;
      rows[step][2 + r] = pairs.y;
    }
  }
}

__device__ __forceinline__ float scale_at(const float* scales, int at) {
  return scales == nullptr ? 1.0f : scales[at];
}

/// A task's queries in registers, and which keys they see.
template <class C>
struct TaskQueries {
  uint32_t rows[C::kKSteps][4];
  float scale;  ///< of the scores, as exponents of 2
  int kv_len;
  int seen_by_all;  ///< keys that every query token sees
  int limits[2];    ///< keys that rows g and g + 8 see: all up to their own token

  __device__ __forceinline__ TaskQueries(const DecodeKernelParams& params, const Segment& s,
                                         const TaskRows& task, int g, int q)
      : kv_len(s.kv_len), seen_by_all(s.kv_len - (params.q_len - 1)) {
    load_queries<C>(params, task, g, q, rows);
    const int scale_index = task.kv_head * params.scale_stride;
    scale = params.score_scale * scale_at(params.q_scale, scale_index) *
            scale_at(params.k_scale, scale_index);
    limits[0] = seen_by_all + (task.first_row + g) / params.group;
    limits[1] = seen_by_all + (task.first_row + g + 8) / params.group;
  }
};

/// Scores, softmax and weighted values of page `page` of the sequence, which lies in shared memory.
template <class C>
__device__ __forceinline__ void attend_page(RowState<C>& state, const TaskQueries<C>& queries,
                                            int page, uint32_t k_page, uint32_t v_page, int g,
                                            int q) {
  float scores[8][4];
  score_page<C>(k_page, queries.rows, g, q, scores);
  const bool masked = 64 * (page + 1) > queries.seen_by_all;
  const int limits[2] = {queries.limits[0] - 64 * page, queries.limits[1] - 64 * page};
  soften<C>(state, scores, queries.scale, masked, limits, q);
  if (masked) {
    weigh_values<C, true>(state, v_page, scores, queries.kv_len - 64 * page - 16 * q, g, q);
  } else {
    weigh_values<C, false>(state, v_page, scores, 64, g, q);
  }
}

}  // namespace kv8::decode
