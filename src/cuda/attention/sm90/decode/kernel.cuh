// Decode attention: one loading warp keeps a ring of pages full, the others take half a page each
// in turn. See docs/attention-decode.md.
#pragma once

#include "cuda/attention/decode/attend.cuh"
#include "cuda/attention/decode/merge.cuh"
#include "cuda/attention/sm90/decode/shape.cuh"
#include "cuda/ptx/bulk.cuh"
#include "cuda/ptx/dependent_launch.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::sm90 {

using namespace decode;

template <class C>
struct DecodeShared {
  alignas(128) uint8_t stages[C::kStages][C::kStageBytes];
  alignas(16) MergeBuffer<C> merge;
  uint64_t k_full[C::kStages], v_full[C::kStages], empty[C::kStages];
  SharedTask tasks[2];
};

/// Position in the ring of stages.
template <class C>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void advance(int count) {
    stage += count;
    if (stage >= C::kStages) {
      stage -= C::kStages;
      phase ^= 1;
    }
  }
};

/// Half of a stage; a page that does not exist is announced as empty.
template <class C>
__device__ __forceinline__ void load_half(uint32_t to, const uint8_t* pool, int64_t block,
                                          bool exists, uint64_t& full, uint64_t policy) {
  const uint32_t barrier = ptx::shared_address(&full);
  if (exists) {
    ptx::mbarrier_arrive_expect(barrier, C::kPageBytes);
    ptx::bulk_load(to, pool + block * C::kPageBytes, C::kPageBytes, barrier, policy);
  } else {
    ptx::mbarrier_arrive(barrier);
  }
}

/// How the pages pass through L2. They are read once, so that what lies there deserves to stay; but
/// a launch of many times L2's size is slowed down by dirty lines that stay, and by nothing else.
template <class C>
__device__ __forceinline__ uint64_t stream_policy(const Schedule& schedule) {
  constexpr uint64_t kMany = uint64_t{384} << 20;
  return uint64_t{schedule.total()} * C::kStageBytes > kMany ? ptx::evict_normal_policy()
                                                             : ptx::evict_first_policy();
}

/// The loading warp's work: a few lanes load a page each.
template <class C>
__device__ void load_pages(const DecodeKernelParams& params, DecodeShared<C>& shared,
                           Schedule schedule, int lane) {
  const uint64_t policy = stream_policy<C>(schedule);
  Ring<C> ring;
#pragma unroll 1
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const TaskRows task = task_rows<C>(params, s);
    const int32_t* table = params.page_table + int64_t{s.batch} * params.max_pages;
    const bool exists = s.kv_len > 0;
    const int first_new_page = (s.kv_len - params.q_len) / 64;
#pragma unroll 1
    for (int base = s.first_page; base < s.end_page; base += C::kLoadPages) {
      const int count = min(s.end_page - base, C::kLoadPages);
      const auto load = [&] {
        const int64_t block =
            int64_t{exists ? table[base + lane] : 0} * params.num_kv_heads + task.kv_head;
        Ring<C> at = ring;
        at.advance(lane);
        const uint32_t stage = ptx::shared_address(shared.stages[at.stage]);
        ptx::mbarrier_wait(ptx::shared_address(&shared.empty[at.stage]), at.phase ^ 1);
        load_half<C>(stage, params.k, block, exists, shared.k_full[at.stage], policy);
        load_half<C>(stage + C::kPageBytes, params.v, block, exists, shared.v_full[at.stage],
                     policy);
      };
      const bool is_new = base + lane >= first_new_page;  // a predecessor writes to this page
      if (lane < count && !is_new) load();
      __syncwarp();
      if (lane < count && is_new) {
        ptx::wait_for_predecessors();
        load();
      }
      __syncwarp();
      ring.advance(count);
    }
    schedule.advance(s);
  }
}

template <class C>
__device__ void compute_pages(const DecodeKernelParams& params, DecodeShared<C>& shared,
                              Schedule schedule, int warp, int lane) {
  const int g = lane / 4, q = lane % 4;
  Ring<C> ring;
  ring.advance(warp / C::kPieces);
  int next_warp = 0;  // that takes the segment's first piece
  RowState<C> rows;
#pragma unroll 1
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const TaskRows task = task_rows<C>(params, s);
    const int pieces = (s.end_page - s.first_page) * C::kPieces;
    const int turn = (warp - next_warp + C::kWarps) % C::kWarps;
    if (turn < pieces) {
      const TaskQueries<C> queries(params, s, task, g, q);
      if (turn == 0 && lane == 0) note_shared(params, schedule, s, task, shared.tasks);
      rows.reset();
#pragma unroll 1
      for (int i = turn; i < pieces; i += C::kWarps) {
        const int piece = s.first_page * C::kPieces + i;
        const uint32_t k_page = ptx::shared_address(shared.stages[ring.stage]);
        Scores<C> scores;
        ptx::mbarrier_wait(ptx::shared_address(&shared.k_full[ring.stage]), ring.phase);
        score_page<C>(scores, queries, piece, k_page, g, q);
        ptx::mbarrier_wait(ptx::shared_address(&shared.v_full[ring.stage]), ring.phase);
        absorb_scores<C>(rows, params, task, queries, piece, scores, k_page + C::kPageBytes, g, q);
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&shared.empty[ring.stage]));
        ring.advance(C::kPagesAtOnce);
      }
      leave_rows<C>(rows, shared.merge, task, warp, g, q);
    }
    finish_segment<C>(params, s, task, shared.merge, next_warp, threadIdx.x);
    next_warp = (next_warp + pieces) % C::kWarps;
    schedule.advance(s);
  }
  finish_shared<C>(params, shared.tasks, threadIdx.x);
}

/// Requests what the schedule reads before anything else is done: the lengths, and the page table,
/// of which the lengths say what is needed.
__device__ __forceinline__ void prefetch_tables(const DecodeKernelParams& params) {
  const int64_t at = int64_t{32} * (blockIdx.x * blockDim.x + threadIdx.x);  // a line of L2 each
  if (32 * int64_t{threadIdx.x} < params.batch) {
    ptx::prefetch_l2(params.kv_lens + 32 * threadIdx.x);
  }
  if (at < int64_t{params.batch} * params.max_pages) ptx::prefetch_l2(params.page_table + at);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    decode_attention(const __grid_constant__ DecodeKernelParams params) {
  extern __shared__ __align__(128) uint8_t memory[];
  DecodeShared<C>& shared = *reinterpret_cast<DecodeShared<C>*>(memory);
  static_assert(sizeof(DecodeShared<C>) <= C::kSharedBytes);
  const int warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  ptx::start_dependents();
  prefetch_tables(params);
  if (lane == 0) {  // a few barriers a warp: one lane after the other sets them up
#pragma unroll
    for (int i = warp; i < C::kStages; i += C::kWarps + 1) {
      ptx::mbarrier_init(ptx::shared_address(&shared.k_full[i]), 1);
      ptx::mbarrier_init(ptx::shared_address(&shared.v_full[i]), 1);
      ptx::mbarrier_init(ptx::shared_address(&shared.empty[i]), C::kPieces);
    }
    ptx::fence_mbarrier_init();
  }
  if (threadIdx.x < 2) shared.tasks[threadIdx.x].exists = false;
  const Schedule schedule(params, lane);
  __syncthreads();
  if (warp == C::kWarps) {
    load_pages<C>(params, shared, schedule, lane);
  } else {
    ptx::wait_for_predecessors();
    compute_pages<C>(params, shared, schedule, warp, lane);
  }
}

}  // namespace kv8::sm90
