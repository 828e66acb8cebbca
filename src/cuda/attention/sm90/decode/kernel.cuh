// Decode attention: one loading warp keeps a ring of pages full, the others take half a page each
// in turn. See docs/attention-decode.md.
#pragma once

#include "cuda/attention/decode/attend.cuh"
#include "cuda/attention/decode/merge.cuh"
#include "cuda/attention/sm90/decode/shape.cuh"
#include "cuda/ptx/bulk.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::sm90 {

using namespace decode;

template <class C>
struct DecodeShared {
  alignas(128) uint8_t stages[C::kStages][C::kStageBytes];
  alignas(16) MergeBuffer<C> merge;
  uint64_t full[C::kStages], empty[C::kStages];
  SharedTask tasks[2];
};

/// Position in the ring of stages.
template <class C>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void advance(int count) {
    stage += count;
    while (stage >= C::kStages) {
      stage -= C::kStages;
      phase ^= 1;
    }
  }
};

template <class C>
__device__ void load_pages(const DecodeKernelParams& params, DecodeShared<C>& shared,
                           Schedule schedule, int lane) {
  const uint64_t policy = ptx::evict_first_policy();
  Ring<C> ring;
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const int kv_head = s.head_tile / params.row_tiles;
    const int32_t* table = params.page_table + int64_t{s.batch} * params.max_pages;
    for (int base = s.first_page; base < s.end_page; base += 32) {
      const int count = min(s.end_page - base, 32);
      const int ids = lane < count && s.kv_len > 0 ? table[base + lane] : 0;
      for (int i = 0; i < count; ++i) {
        const int64_t block =
            int64_t{__shfl_sync(kAllLanes, ids, i)} * params.num_kv_heads + kv_head;
        if (lane == 0) {
          const uint32_t full = ptx::shared_address(&shared.full[ring.stage]);
          const uint32_t stage = ptx::shared_address(shared.stages[ring.stage]);
          ptx::mbarrier_wait(ptx::shared_address(&shared.empty[ring.stage]), ring.phase ^ 1);
          if (s.kv_len > 0) {
            ptx::mbarrier_arrive_expect(full, C::kStageBytes);
            ptx::bulk_load(stage, params.k + block * C::kPageBytes, C::kPageBytes, full, policy);
            ptx::bulk_load(stage + C::kPageBytes, params.v + block * C::kPageBytes, C::kPageBytes,
                           full, policy);
          } else {
            ptx::mbarrier_arrive(full);
          }
        }
        ring.advance(1);
      }
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
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const TaskRows task = task_rows<C>(params, s);
    const int pieces = (s.end_page - s.first_page) * C::kPieces;
    const int turn = (warp - next_warp + C::kWarps) % C::kWarps;
    if (turn < pieces) {
      const TaskQueries<C> queries(params, s, task, g, q);
      rows.reset();
      for (int i = turn; i < pieces; i += C::kWarps) {
        const uint32_t k_page = ptx::shared_address(shared.stages[ring.stage]);
        ptx::mbarrier_wait(ptx::shared_address(&shared.full[ring.stage]), ring.phase);
        attend_piece<C>(rows, params, task, queries, s.first_page * C::kPieces + i, k_page,
                        k_page + C::kPageBytes, g, q);
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&shared.empty[ring.stage]));
        ring.advance(C::kPagesAtOnce);
      }
      leave_rows<C>(rows, shared.merge, task, warp, g, q);
    }
    finish_segment<C>(params, schedule, s, task, shared.merge, next_warp, shared.tasks,
                      threadIdx.x);
    next_warp = (next_warp + pieces) % C::kWarps;
    schedule.advance(s);
  }
  finish_shared<C>(params, shared.tasks, threadIdx.x);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    decode_attention(const __grid_constant__ DecodeKernelParams params) {
  extern __shared__ __align__(128) uint8_t memory[];
  DecodeShared<C>& shared = *reinterpret_cast<DecodeShared<C>*>(memory);
  static_assert(sizeof(DecodeShared<C>) <= C::kSharedBytes);
  const int warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x < C::kStages) {
    ptx::mbarrier_init(ptx::shared_address(&shared.full[threadIdx.x]), 1);
    ptx::mbarrier_init(ptx::shared_address(&shared.empty[threadIdx.x]), C::kPieces);
    ptx::fence_mbarrier_init();
  }
  if (threadIdx.x < 2) shared.tasks[threadIdx.x].exists = false;
  const Schedule schedule(params, lane);
  __syncthreads();
  if (warp == C::kWarps) {
    load_pages<C>(params, shared, schedule, lane);
  } else {
    compute_pages<C>(params, shared, schedule, warp, lane);
  }
}

}  // namespace kv8::sm90
