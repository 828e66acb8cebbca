// Decode attention: one loading warp keeps a ring of pages full, the others take one page each in
// turn. See docs/attention-decode.md.
#pragma once

#include "cuda/attention/sm90/decode/merge.cuh"
#include "cuda/ptx/bulk.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::sm90 {

template <class C>
struct DecodeShared {
  alignas(128) uint8_t stages[C::kStages][C::kStageBytes];
  alignas(16) MergeBuffer<C> merge;
  uint64_t full[C::kStages], empty[C::kStages];
  uint32_t is_last;
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

template <class C>
__device__ void compute_pages(const DecodeKernelParams& params, DecodeShared<C>& shared,
                              Schedule schedule, int warp, int lane) {
  const int g = lane / 4, q = lane % 4;
  Ring<C> ring;
  ring.advance(warp);
  int next_warp = 0;  // that takes the segment's first page
  RowState<C> rows;
  for (; !schedule.done();) {
    const Segment s = schedule.segment();
    const TaskRows task = task_rows<C>(params, s);
    const int pages = s.end_page - s.first_page;
    const int turn = (warp - next_warp + C::kWarps) % C::kWarps;
    if (turn < pages) {
      uint32_t q_rows[C::kKSteps][4];
      load_queries<C>(params, task, g, q, q_rows);
      const int scale_index = task.kv_head * params.scale_stride;
      const float scale = params.score_scale * scale_at(params.q_scale, scale_index) *
                          scale_at(params.k_scale, scale_index);
      // Keys that a row sees: all up to its own token.
      const int unseen = params.q_len - 1;
      const int last_key[2] = {s.kv_len - unseen + (task.first_row + g) / params.group,
                               s.kv_len - unseen + (task.first_row + g + 8) / params.group};
      rows.reset();
      for (int page = s.first_page + turn; page < s.end_page; page += C::kWarps) {
        const uint32_t k_page = ptx::shared_address(shared.stages[ring.stage]);
        ptx::mbarrier_wait(ptx::shared_address(&shared.full[ring.stage]), ring.phase);
        float scores[8][4];
        score_page<C>(k_page, q_rows, g, q, scores);
        const bool masked = 64 * (page + 1) > s.kv_len - unseen;
        const int limits[2] = {last_key[0] - 64 * page, last_key[1] - 64 * page};
        soften<C>(rows, scores, scale, masked, limits, q);
        if (masked) {
          weigh_values<C, true>(rows, k_page + C::kPageBytes, scores, s.kv_len - 64 * page - 16 * q,
                                g, q);
        } else {
          weigh_values<C, false>(rows, k_page + C::kPageBytes, scores, 64, g, q);
        }
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(ptx::shared_address(&shared.empty[ring.stage]));
        ring.advance(C::kWarps);
      }
      leave_rows<C>(rows, shared.merge, warp, g, q);
    }
    finish_segment<C>(params, schedule, s, shared.merge, next_warp, &shared.is_last, threadIdx.x);
    next_warp = (next_warp + pages) % C::kWarps;
    schedule.advance(s);
  }
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
    ptx::mbarrier_init(ptx::shared_address(&shared.empty[threadIdx.x]), 1);
    ptx::fence_mbarrier_init();
  }
  const Schedule schedule(params, lane);
  __syncthreads();
  if (warp == C::kWarps) {
    load_pages<C>(params, shared, schedule, lane);
  } else {
    compute_pages<C>(params, shared, schedule, warp, lane);
  }
}

}  // namespace kv8::sm90
