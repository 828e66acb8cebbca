// Decode attention: one loading warp keeps a ring of pages full, the others take half a page each
// in turn. See docs/attention-decode.md.
#pragma once

#include "cuda/attention/decode/attend.cuh"
#include "cuda/attention/decode/merge.cuh"
#include "cuda/attention/sm90/decode/pace.cuh"
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
  std::conditional_t<C::kCluster, ClusterParts<C>, SharedTask[2]> tasks;  ///< that blocks share
};

template <class C>
using ScheduleOf = std::conditional_t<C::kCluster, ClusterSchedule, Schedule>;
template <class C>
using PaceOf = std::conditional_t<C::kCluster, ClusterPace<C>, SharedPace<C>>;

template <class C>
__device__ __forceinline__ void init_stage(DecodeShared<C>& shared, int stage) {
  ptx::mbarrier_init(ptx::shared_address(&shared.k_full[stage]), 1);
  ptx::mbarrier_init(ptx::shared_address(&shared.v_full[stage]), 1);
  ptx::mbarrier_init(ptx::shared_address(&shared.empty[stage]), C::kPieces);
}

/// Position in the ring of stages.
template <class C>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;  ///< its parity
  __device__ void advance(int count) {
    stage += count;
    if (stage >= C::kStages) {
      stage -= C::kStages;
      phase ^= 1;
    }
  }
  __device__ Ring back(int count) const {
    return stage >= count ? Ring{stage - count, phase}
                          : Ring{stage + C::kStages - count, phase ^ 1};
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

/// How the pages pass through L2 (`ordinary_l2_from`).
template <class C>
__device__ __forceinline__ uint64_t stream_policy(const DecodeKernelParams& params,
                                                  const ScheduleOf<C>& schedule) {
  return uint64_t{schedule.total()} * C::kStageBytes > params.ordinary_l2_from
             ? ptx::evict_normal_policy()
             : ptx::evict_first_policy();
}

/// Entries of the page table for a segment's pages from number `from` on, one a lane; the row's
/// last entry where there are fewer.
__device__ __forceinline__ int32_t page_ids(const DecodeKernelParams& params, int batch,
                                            int first_page, int stride, int from, int lane) {
  const int page = first_page + (from + lane) * stride;
  return params.page_table[int64_t{batch} * params.max_pages + min(page, params.max_pages - 1)];
}

/// First of the sequence's pages that a predecessor may still write to.
__device__ __forceinline__ int first_new_page_of(const DecodeKernelParams& params,
                                                 const Segment& s) {
  return params.dependent_launch ? (s.kv_len - params.q_len) / 64 : s.pages;
}

/// Lanes for which `loads` holds load; what a predecessor may write to after the others, when it
/// has ended. A loop, so that the code of a load is there once. Whole warps.
template <class Load>
__device__ __forceinline__ void load_old_then_new(bool loads, bool is_new, const Load& load) {
  const bool any_new = __any_sync(kAllLanes, loads && is_new);
#pragma unroll 1
  for (int now_new = 0; now_new <= (any_new ? 1 : 0); ++now_new) {
    if (now_new != 0) ptx::wait_for_predecessors();
    if (loads && is_new == (now_new != 0)) load();
    __syncwarp();
  }
}

/// The loading warp's work: a few lanes load a page each, where they are paced (pace.cuh) K and V
/// of it not before those of the kPacedPages-th page before have arrived. Of the first segment
/// `loaded` pages are under way (with pacing kLoadPages or all), whose ids are among `ids`.
template <class C>
__device__ __forceinline__ void load_pages(const DecodeKernelParams& params,
                                           DecodeShared<C>& shared, ScheduleOf<C> schedule,
                                           int loaded, int32_t ids, int lane) {
  constexpr int kIds = 32 / C::kLoadPages * C::kLoadPages;
  const uint64_t policy = stream_policy<C>(params, schedule);
  PaceOf<C> pace(params, schedule);
  Ring<C> ring;
  ring.advance(loaded);
#pragma unroll 1
  for (int begin = loaded; !schedule.done(); begin = 0) {
    const Segment s = schedule.segment();
    const int kv_head = kv_head_of(params, s);
    const int first_new_page = first_new_page_of(params, s);
#pragma unroll 1
    for (int base = begin; base < s.count; base += C::kLoadPages) {
      if (base % kIds == 0) {
        ids = page_ids(params, s.batch, s.first_page, s.stride, base, lane);
      }
      const int turn = lane - base % kIds, count = min(s.count - base, C::kLoadPages);
      const bool loads = turn >= 0 && turn < count;
      const bool paced = pace.next(count, lane);
      const auto load = [&] {
        const int64_t block = int64_t{ids} * params.num_kv_heads + kv_head;
        Ring<C> to = ring;
        to.advance(turn);
        const Ring<C> before = to.back(C::kPacedPages);
        const uint32_t stage = ptx::shared_address(shared.stages[to.stage]);
        ptx::mbarrier_wait(ptx::shared_address(&shared.empty[to.stage]), to.phase ^ 1);
        if (paced) {
          ptx::mbarrier_wait(ptx::shared_address(&shared.k_full[before.stage]), before.phase);
        }
        load_half<C>(stage, params.k, block, s.kv_len > 0, shared.k_full[to.stage], policy);
        if (paced) {
          ptx::mbarrier_wait(ptx::shared_address(&shared.v_full[before.stage]), before.phase);
        }
        load_half<C>(stage + C::kPageBytes, params.v, block, s.kv_len > 0, shared.v_full[to.stage],
                     policy);
      };
      const bool is_new = s.first_page + (base + turn) * s.stride >= first_new_page;
      load_old_then_new(loads, is_new, load);
      ring.advance(count);
    }
    schedule.advance(s);
  }
  pace.end(lane);
}

/// Loads the first pages of a cluster's block, by the shortest way from their ids and the length;
/// returns how many.
template <class C>
__device__ __forceinline__ int load_first(const DecodeKernelParams& params, DecodeShared<C>& shared,
                                          const ClusterSchedule& schedule, int32_t id, int lane) {
  const uint64_t policy = ptx::evict_first_policy();
  const Segment s = schedule.segment();
  const int64_t block = int64_t{id} * params.num_kv_heads + kv_head_of(params, s);
  const int count = min(schedule.done() ? 0 : s.count, C::kLoadPages);
  const auto load = [&] {
    const uint32_t stage = ptx::shared_address(shared.stages[lane]);
    load_half<C>(stage, params.k, block, s.kv_len > 0, shared.k_full[lane], policy);
    load_half<C>(stage + C::kPageBytes, params.v, block, s.kv_len > 0, shared.v_full[lane], policy);
  };
  const bool is_new = s.first_page + lane * s.stride >= first_new_page_of(params, s);
  load_old_then_new(lane < count, is_new, load);
  return count;
}

/// The pieces of a segment that are this warp's: every kWarps-th from number `turn` on. `ring`
/// stands at its next page.
template <class C>
__device__ __forceinline__ void attend_pieces(RowState<C>& rows, const DecodeKernelParams& params,
                                              DecodeShared<C>& shared, Ring<C>& ring,
                                              const Segment& s, const TaskRows& task, int turn,
                                              int lane) {
  const int g = lane / 4, q = lane % 4;
  const int pieces = s.count * C::kPieces;
  rows.reset();
  if (turn >= pieces) return;
  const TaskQueries<C> queries(params, s, task, g, q);
#pragma unroll 1
  for (int i = turn; i < pieces; i += C::kWarps) {
    const int piece = (s.first_page + i / C::kPieces * s.stride) * C::kPieces + i % C::kPieces;
    const uint32_t k_page = ptx::shared_address(shared.stages[ring.stage]);
    Scores<C> scores;
    Weights<C> weights;
    ptx::mbarrier_wait(ptx::shared_address(&shared.k_full[ring.stage]), ring.phase);
    score_page<C>(scores, queries, piece, k_page, g, q);
    const SeenKeys<C> seen =
        weigh_keys<C>(rows, params, task, queries, piece, scores, weights, g, q);
    if (i + C::kWarps >= pieces) rows.complete_sums();  // while V is under way
    ptx::mbarrier_wait(ptx::shared_address(&shared.v_full[ring.stage]), ring.phase);
    absorb_values<C>(rows, piece, weights, seen, k_page + C::kPageBytes, g, q);
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&shared.empty[ring.stage]));
    ring.advance(C::kPagesAtOnce);
  }
}

template <class C>
__device__ void compute_pages(const DecodeKernelParams& params, DecodeShared<C>& shared,
                              Schedule schedule, int warp, int lane) {
  Ring<C> ring;
  ring.advance(warp / C::kPieces);
  int next_warp = 0;  // that takes the segment's first piece
  RowState<C> rows;
#pragma unroll 1
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const TaskRows task = task_rows<C>(params, s);
    const int turn = (warp - next_warp + C::kWarps) % C::kWarps;
    if (turn == 0 && lane == 0) note_shared(params, schedule, s, task, shared.tasks);
    attend_pieces<C>(rows, params, shared, ring, s, task, turn, lane);
    leave_rows<C>(rows, shared.merge, task, warp, lane / 4, lane % 4);
    finish_segment<C>(params, s, task, shared.merge, threadIdx.x);
    next_warp = (next_warp + s.count * C::kPieces) % C::kWarps;
    schedule.advance(s);
  }
  finish_shared<C>(params, shared.tasks, threadIdx.x);
}

/// A block's share of its cluster's task; it may be empty.
template <class C>
__device__ void compute_share(const DecodeKernelParams& params, DecodeShared<C>& shared,
                              const ClusterSchedule& schedule, int warp, int lane) {
  const Segment s = schedule.segment();
  const TaskRows task = task_rows<C>(params, s);
  expect_parts<C>(shared.tasks, schedule, task.rows, threadIdx.x);
  if (!schedule.done()) {
    Ring<C> ring;
    ring.advance(warp / C::kPieces);
    RowState<C> rows;
    attend_pieces<C>(rows, params, shared, ring, s, task, warp, lane);
    leave_rows<C>(rows, shared.merge, task, warp, lane / 4, lane % 4);
    compute_barrier<C>();
    send_parts<C>(shared.tasks, shared.merge, task.rows, threadIdx.x);
  }
  combine_parts<C>(params, shared.tasks, schedule, task, threadIdx.x);
}

/// Requests what the schedule reads before anything else is done: the lengths, and the page table,
/// of which the lengths say what is needed.
__device__ __forceinline__ void prefetch_tables(const DecodeKernelParams& params) {
  const int64_t at =
      int64_t{32} * (block_number() * blockDim.x + threadIdx.x);  // a line of L2 each
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
#pragma unroll 1
    for (int i = warp; i < C::kStages; i += C::kWarps + 1) init_stage(shared, i);
    ptx::fence_mbarrier_init();
  }
  if (threadIdx.x < 2) shared.tasks[threadIdx.x].exists = false;
  const Schedule schedule(params, lane);
  __syncthreads();
  if (warp == C::kWarps) {
    load_pages<C>(params, shared, schedule, 0, 0, lane);
  } else {
    ptx::wait_for_predecessors();
    compute_pages<C>(params, shared, schedule, warp, lane);
  }
}

/// The same with a cluster of blocks for each task.
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    decode_attention_in_clusters(const __grid_constant__ DecodeKernelParams params) {
  extern __shared__ __align__(128) uint8_t memory[];
  DecodeShared<C>& shared = *reinterpret_cast<DecodeShared<C>*>(memory);
  static_assert(sizeof(DecodeShared<C>) <= C::kSharedBytes);
  const int warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int kv_len = __ldg(params.kv_lens + blockIdx.z);
  const int32_t ids = page_ids(params, blockIdx.z, blockIdx.x, gridDim.x, 0, lane);
  ptx::start_dependents();  // and what is requested stays before it
  if (warp == C::kWarps) {
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < C::kStages; ++i) init_stage(shared, i);
      ptx::mbarrier_init(ptx::shared_address(&shared.tasks.full), 1);
      ptx::fence_mbarrier_init();
    }
    __syncwarp();
    ptx::cluster_arrive_relaxed();
    const ClusterSchedule schedule(kv_len);
    const int loaded = load_first<C>(params, shared, schedule, ids, lane);
    load_pages<C>(params, shared, schedule, loaded, ids, lane);
    ptx::cluster_wait();
  } else {
    ptx::cluster_arrive_relaxed();
    ptx::cluster_wait();  // all blocks' barriers are ready
    ptx::wait_for_predecessors();
    compute_share<C>(params, shared, ClusterSchedule(kv_len), warp, lane);
  }
}

}  // namespace kv8::sm90
