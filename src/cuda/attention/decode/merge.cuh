// From the warps' partial results to the output: within the block, then across blocks.
#pragma once

#include "cuda/attention/decode/page.cuh"
#include "cuda/ptx/sync.cuh"

namespace kv8::decode {

/// The computing warps' own barrier; 0 is __syncthreads.
inline constexpr int kComputeBarrier = 1;

template <class C>
__device__ __forceinline__ void compute_barrier() {
  ptx::named_barrier_sync(kComputeBarrier, 32 * C::kWarps);
}

template <class C>
struct MergeBuffer {
  float out[C::kWarps][C::kRows][C::kMergePitch];
  float2 weight[C::kWarps][C::kRows];  ///< peak and sum
};

__device__ __forceinline__ float scale_at(const float* scales, int at) {
  return scales == nullptr ? 1.0f : scales[at];
}

/// What a task's rows mean outside.
struct TaskRows {
  int batch, kv_head, first_row, rows;
  float v_scale;
};
__device__ __forceinline__ int kv_head_of(const DecodeKernelParams& params, const Segment& s) {
  return params.row_tiles == 1 ? s.head_tile : s.head_tile / params.row_tiles;
}
template <class C>
__device__ __forceinline__ TaskRows task_rows(const DecodeKernelParams& params, const Segment& s) {
  const int kv_head = kv_head_of(params, s);
  const int first = (s.head_tile - kv_head * params.row_tiles) * C::kRows;
  return {s.batch, kv_head, first, min(params.q_len * params.group - first, C::kRows),
          scale_at(params.v_scale, kv_head * params.scale_stride)};
}
/// Offset of a row in Q and in the output; `row` counts query token by query token.
__device__ __forceinline__ int64_t row_offset(const DecodeKernelParams& params,
                                              const TaskRows& task, int row, int head_dim) {
  const int at = task.first_row + row, token = params.q_len == 1 ? 0 : at / params.group;
  const int head = task.kv_head * params.group + at - token * params.group;
  return ((int64_t{task.batch} * params.q_len + token) * params.num_heads + head) * head_dim;
}

/// Every computing warp leaves its rows, sums complete, one without any piece empty ones.
template <class C>
__device__ __forceinline__ void leave_rows(const RowState<C>& rows, MergeBuffer<C>& buffer,
                                           const TaskRows& task, int warp, int g, int q) {
#pragma unroll
  for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int row = 8 * n + 2 * q + c;
      if (row >= task.rows) continue;
      if (g == 0) buffer.weight[warp][row] = make_float2(rows.peak[n][c], rows.sum[n][c]);
#pragma unroll
      for (int tile = 0; tile < C::kHeadDim / 16; ++tile) {
        buffer.out[warp][row][16 * tile + g] = rows.out[tile][n][c];
        buffer.out[warp][row][16 * tile + 8 + g] = rows.out[tile][n][2 + c];
      }
    }
  }
}

/// Two columns of a row, with what they are relative to.
struct RowPart {
  float2 out = make_float2(0.0f, 0.0f);
  float peak = kNoPeak, sum = 0.0f;
};

/// Adds up to kCount parts, of which `weight` holds peaks (kNoPeak where there is none) and sums.
template <int kCount>
__device__ __forceinline__ void add_parts(RowPart& to, const float2 (&weight)[kCount],
                                          const float2 (&out)[kCount]) {
  float peak = to.peak;
#pragma unroll
  for (int i = 0; i < kCount; ++i) peak = fmaxf(peak, weight[i].x);
  const float shrink = ptx::exp2_approx(to.peak - peak);
  to.peak = peak;
  to.sum *= shrink;
  to.out.x *= shrink;
  to.out.y *= shrink;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float factor = ptx::exp2_approx(weight[i].x - peak);
    to.sum = fmaf(weight[i].y, factor, to.sum);
    to.out.x = fmaf(out[i].x, factor, to.out.x);
    to.out.y = fmaf(out[i].y, factor, to.out.y);
  }
}

/// Sums what the warps have left.
template <class C>
__device__ __forceinline__ RowPart merge_warps(const MergeBuffer<C>& buffer, int row, int column) {
  float2 weight[C::kWarps], out[C::kWarps];
#pragma unroll
  for (int warp = 0; warp < C::kWarps; ++warp) {
    weight[warp] = buffer.weight[warp][row];
    out[warp] = *reinterpret_cast<const float2*>(&buffer.out[warp][row][column]);
  }
  RowPart part;
  add_parts(part, weight, out);
  return part;
}

/// Two columns of a row of the output: where they go, and what scales and shifts them. All loads
/// are under way before the sum is known.
template <class C>
class FinishedPair {
 public:
  __device__ FinishedPair(const DecodeKernelParams& params, const TaskRows& task, int row,
                          int column)
      : to_(params.out + row_offset(params, task, row, C::kHeadDim) + column),
        scale_(task.v_scale),
        bf16_(params.out_is_bf16) {
    if (params.v_offset != nullptr) {
      add_ =
          *reinterpret_cast<const float2*>(params.v_offset + task.kv_head * C::kHeadDim + column);
    }
  }

  __device__ void store(const RowPart& part) const {
    const bool empty = part.sum == 0.0f;  // no key: zeros
    const float factor = empty ? 0.0f : __fdividef(scale_, part.sum);
    const float x = fmaf(part.out.x, factor, empty ? 0.0f : add_.x);
    const float y = fmaf(part.out.y, factor, empty ? 0.0f : add_.y);
    *reinterpret_cast<uint32_t*>(to_) =
        bf16_ ? ptx::floats_to_bfloat_pair(x, y) : ptx::floats_to_half_pair(x, y);
  }

 private:
  uint16_t* to_;
  float scale_;
  bool bf16_;
  float2 add_ = make_float2(0.0f, 0.0f);
};

/// Place of a block's part of a shared task: [rows][head_dim] sums, then [rows] peaks and weights.
/// A block's first segment may continue a task, its last may begin one.
template <class C>
__device__ __forceinline__ float* part_of(const DecodeKernelParams& params, int block,
                                          bool begins) {
  return params.partial + (2 * int64_t{block} + begins) * (C::kRows * (C::kHeadDim + 2));
}

/// A task of which this block has done a part, in shared memory.
struct SharedTask {
  TaskRows rows;
  uint32_t counter;
  int first_block, last_block;
  bool exists;   ///< begins as false
  bool is_last;  ///< this block came last
};

/// Notes a task that will need other blocks' parts.
__device__ __forceinline__ void note_shared(const DecodeKernelParams& params,
                                            const Schedule& schedule, const Segment& segment,
                                            const TaskRows& task, SharedTask (&shared)[2]) {
  if (segment.count == segment.pages) return;
  SharedTask& own = shared[segment.first_page == 0];
  own.rows = task;
  own.counter =
      segment.batch * params.num_kv_heads * params.row_tiles + uint32_t(segment.head_tile);
  own.first_block = schedule.first_block(segment);
  own.last_block = schedule.last_block(segment);
  own.exists = true;
}

/// Sums the parts of all blocks that share a task, in their order.
template <class C>
__device__ __forceinline__ void combine_blocks(const DecodeKernelParams& params,
                                               const SharedTask& task, int thread) {
  constexpr int kOut = C::kRows * C::kHeadDim;
  constexpr int kAtOnce = 16;  // loads in flight
  const int count = task.last_block - task.first_block + 1;
#pragma unroll 1
  for (int e = thread; e < task.rows.rows * (C::kHeadDim / 2); e += 32 * C::kWarps) {
    const int row = e / (C::kHeadDim / 2), column = e % (C::kHeadDim / 2) * 2;
    const FinishedPair<C> finish(params, task.rows, row, column);
    RowPart part;
#pragma unroll 1
    for (int base = 0; base < count; base += kAtOnce) {
      const float* parts = part_of<C>(params, task.first_block + base, false);
      float2 weight[kAtOnce], out[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        weight[i] = make_float2(kNoPeak, 0.0f);
        out[i] = make_float2(0.0f, 0.0f);
        if (base + i < count) {
          const float* from = parts + i * (part_of<C>(params, 1, false) - params.partial);
          if (i == 0 && base == 0) from = part_of<C>(params, task.first_block, true);
          weight[i] = __ldcg(reinterpret_cast<const float2*>(from + kOut + 2 * row));
          out[i] = __ldcg(reinterpret_cast<const float2*>(from + row * C::kHeadDim + column));
        }
      }
      add_parts(part, weight, out);
    }
    finish.store(part);
  }
}

/// Called by all computing warps after they have left their rows. What is a part of a task goes to
/// the workspace.
template <class C>
__device__ __forceinline__ void finish_segment(const DecodeKernelParams& params,
                                               const Segment& segment, const TaskRows& task,
                                               const MergeBuffer<C>& buffer, int thread) {
  constexpr int kOut = C::kRows * C::kHeadDim;
  const bool whole = segment.count == segment.pages;
  float* own = part_of<C>(params, block_number(), segment.first_page == 0);
  compute_barrier<C>();
#pragma unroll 1
  for (int e = thread; e < task.rows * (C::kHeadDim / 2); e += 32 * C::kWarps) {
    const int row = e / (C::kHeadDim / 2), column = e % (C::kHeadDim / 2) * 2;
    const RowPart part = merge_warps<C>(buffer, row, column);
    if (whole) {
      FinishedPair<C>(params, task, row, column).store(part);
    } else {
      __stcg(reinterpret_cast<float2*>(own + row * C::kHeadDim + column), part.out);
      if (column == 0) {
        __stcg(reinterpret_cast<float2*>(own + kOut + 2 * row), make_float2(part.peak, part.sum));
      }
    }
  }
  compute_barrier<C>();  // the buffer may be filled again
}

/// Counts this block in. Every store before the preceding barrier is seen by the last one.
__device__ __forceinline__ void arrive(const DecodeKernelParams& params, SharedTask& task) {
  if (!task.exists) return;
  uint32_t* counter = params.counters + task.counter;
  task.is_last = ptx::atomic_add_ordered(counter, 1u) ==
                 static_cast<uint32_t>(task.last_block - task.first_block);
  if (task.is_last) *counter = 0;  // ready for the next launch
}

/// At the end of a block's work: whoever comes last to a shared task combines it.
template <class C>
__device__ __forceinline__ void finish_shared(const DecodeKernelParams& params,
                                              SharedTask (&shared)[2], int thread) {
  if (!shared[0].exists && !shared[1].exists) return;
  if (thread % 32 == 0 && thread < 64) arrive(params, shared[thread / 32]);
  compute_barrier<C>();
#pragma unroll 1
  for (const SharedTask& task : shared) {
    if (task.exists && task.is_last) combine_blocks<C>(params, task, thread);
  }
}

}  // namespace kv8::decode
