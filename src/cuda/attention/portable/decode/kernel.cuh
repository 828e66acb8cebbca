// Decode attention with mma.sync and cp.async only: each warp loads the pages that it attends to.
// See docs/attention-portable.md.
#pragma once

#include <algorithm>

#include "cuda/attention/decode/attend.cuh"
#include "cuda/attention/decode/merge.cuh"
#include "cuda/ptx/async_copy.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::portable {

using namespace decode;

/// Room for one K page and one V page a warp, within 99 KiB (compute capability 8.9 and 12.x).
constexpr int decode_warps(int elem_bytes, int head_dim) {
  return std::min(96 * 1024 / (2 * 64 * head_dim * elem_bytes), 8);
}

template <int kElem, int kDim, int kRowCount>
struct WarpShape : DecodeShape<kElem, kDim, kRowCount, decode_warps(kElem, kDim), 1> {
  static constexpr int kThreads = 32 * decode_warps(kElem, kDim);
};

/// What the warps leave lies over the pages that they have read.
template <class C>
struct DecodeShared {
  union {
    alignas(16) uint8_t pages[C::kWarps][2][C::kPageBytes];
    MergeBuffer<C> merge;
  };
  SharedTask tasks[2];
};

/// This warp's copy of one page of K or of V.
template <class C>
__device__ __forceinline__ void load_page(uint32_t to, const uint8_t* from, int lane) {
#pragma unroll
  for (int at = 0; at < C::kPageBytes; at += 512) {
    ptx::async_copy_16(to + at + 16 * lane, from + at + 16 * lane, 16);
  }
}

/// Attends to every kWarps-th page of the segment from `page` on. K and V take turns: while one is
/// used, the other one's next page is under way.
template <class C>
__device__ __forceinline__ void attend_pages(RowState<C>& rows, const DecodeKernelParams& params,
                                             const Segment& s, const TaskRows& task, int page,
                                             uint32_t k_page, int lane) {
  const int g = lane / 4, q = lane % 4;
  const uint32_t v_page = k_page + C::kPageBytes;
  const int32_t* table = params.page_table + int64_t{s.batch} * params.max_pages;
  // An empty sequence has a page that does not exist, all of whose tokens are masked.
  const int end = s.first_page + s.count;
  const auto id_of = [&](int at) { return at < end && s.kv_len > 0 ? table[at] : -1; };
  const auto load = [&](uint32_t to, const uint8_t* pool, int id) {
    const int64_t block = int64_t{id} * params.num_kv_heads + task.kv_head;
    if (id >= 0) load_page<C>(to, pool + block * C::kPageBytes, lane);
    ptx::async_copy_commit();
  };
  const int first_id = id_of(page);
  int next_id = id_of(page + C::kWarps);
  load(k_page, params.k, first_id);
  load(v_page, params.v, first_id);
  const TaskQueries<C> queries(params, s, task, g, q);
  for (; page < end; page += C::kWarps) {
    const int id = next_id;
    next_id = id_of(page + 2 * C::kWarps);
    Scores<C> scores;
    Weights<C> weights;
    ptx::async_copy_wait<1>();
    __syncwarp();
    score_piece<C>(k_page, queries.rows, g, q, scores);
    __syncwarp();
    load(k_page, params.k, id);
    const SeenKeys<C> seen =
        weigh_keys<C>(rows, params, task, queries, page, scores, weights, g, q);
    ptx::async_copy_wait<1>();
    __syncwarp();
    absorb_values<C>(rows, page, weights, seen, v_page, g, q);
    __syncwarp();
    load(v_page, params.v, id);
  }
  rows.complete_sums();
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    decode_attention(const __grid_constant__ DecodeKernelParams params) {
  extern __shared__ __align__(16) uint8_t memory[];
  DecodeShared<C>& shared = *reinterpret_cast<DecodeShared<C>*>(memory);
  static_assert(sizeof(DecodeShared<C>) <= 99 * 1024);
  const int warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x < 2) shared.tasks[threadIdx.x].exists = false;
  Schedule schedule(params, lane);
  __syncthreads();  // a block without work goes straight to the end
  RowState<C> rows;
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const TaskRows task = task_rows<C>(params, s);
    const int page = s.first_page + warp;
    if (threadIdx.x == 0) note_shared(params, schedule, s, task, shared.tasks);
    rows.reset();
    if (page < s.first_page + s.count) {
      const uint32_t k_page = ptx::shared_address(shared.pages[warp][0]);
      attend_pages<C>(rows, params, s, task, page, k_page, lane);
    }
    __syncthreads();
    leave_rows<C>(rows, shared.merge, task, warp, lane / 4, lane % 4);
    finish_segment<C>(params, s, task, shared.merge, threadIdx.x);
    schedule.advance(s);
  }
  finish_shared<C>(params, shared.tasks, threadIdx.x);
}

}  // namespace kv8::portable
