// From the warps' partial results to the output: within the block, then across blocks.
#pragma once

#include "cuda/attention/decode/page.cuh"
#include "cuda/attention/decode/schedule.cuh"
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
  float peak[C::kWarps][C::kRows];
  float sum[C::kWarps][C::kRows];
};

/// What a task's rows mean outside.
struct TaskRows {
  int batch, kv_head, first_row, rows;
};
template <class C>
__device__ __forceinline__ TaskRows task_rows(const DecodeKernelParams& params, const Segment& s) {
  const int first = s.head_tile % params.row_tiles * C::kRows;
  return {s.batch, s.head_tile / params.row_tiles, first,
          min(params.q_len * params.group - first, C::kRows)};
}
/// Offset of a row in Q and in the output; `row` counts query token by query token.
__device__ __forceinline__ int64_t row_offset(const DecodeKernelParams& params,
                                              const TaskRows& task, int row, int head_dim) {
  const int token = (task.first_row + row) / params.group;
  const int head = task.kv_head * params.group + (task.first_row + row) % params.group;
  return ((int64_t{task.batch} * params.q_len + token) * params.num_heads + head) * head_dim;
}

template <class C>
__device__ __forceinline__ void leave_rows(RowState<C>& rows, MergeBuffer<C>& buffer, int warp,
                                           int g, int q) {
#pragma unroll
  for (int r = 0; r < C::kRows / 8; ++r) {
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (q == 0) {
      buffer.peak[warp][g + 8 * r] = rows.peak[r];
      buffer.sum[warp][g + 8 * r] = sum;
    }
#pragma unroll
    for (int tile = 0; tile < C::kHeadDim / 8; ++tile) {
      *reinterpret_cast<float2*>(&buffer.out[warp][g + 8 * r][8 * tile + 2 * q]) =
          make_float2(rows.out[tile][2 * r], rows.out[tile][2 * r + 1]);
    }
  }
}

/// Four columns of a row, with what they are relative to.
struct RowPart {
  float4 out;
  float peak, sum;
};
__device__ __forceinline__ void add_scaled(float4& to, const float4& from, float factor) {
  to.x = fmaf(from.x, factor, to.x);
  to.y = fmaf(from.y, factor, to.y);
  to.z = fmaf(from.z, factor, to.z);
  to.w = fmaf(from.w, factor, to.w);
}

/// Sums what `count` warps from `first_warp` on (cyclically) have left.
template <class C>
__device__ __forceinline__ RowPart merge_warps(const MergeBuffer<C>& buffer, int first_warp,
                                               int count, int row, int column) {
  RowPart part{make_float4(0, 0, 0, 0), kNoPeak, 0.0f};
#pragma unroll
  for (int i = 0; i < C::kWarps; ++i) {
    if (i < count) part.peak = fmaxf(part.peak, buffer.peak[(first_warp + i) % C::kWarps][row]);
  }
#pragma unroll
  for (int i = 0; i < C::kWarps; ++i) {
    if (i < count) {
      const int warp = (first_warp + i) % C::kWarps;
      const float factor = ptx::exp2_approx(buffer.peak[warp][row] - part.peak);
      part.sum = fmaf(buffer.sum[warp][row], factor, part.sum);
      add_scaled(part.out, *reinterpret_cast<const float4*>(&buffer.out[warp][row][column]),
                 factor);
    }
  }
  return part;
}

template <class C>
__device__ __forceinline__ void store_part(const DecodeKernelParams& params, const TaskRows& task,
                                           int row, int column, const RowPart& part) {
  const float scale =
      params.v_scale == nullptr ? 1.0f : params.v_scale[task.kv_head * params.scale_stride];
  const bool empty = part.sum == 0.0f;  // no key: zeros
  const float factor = empty ? 0.0f : __fdividef(scale, part.sum);
  float4 add = make_float4(0, 0, 0, 0);
  if (params.v_offset != nullptr && !empty) {
    add = *reinterpret_cast<const float4*>(params.v_offset + task.kv_head * C::kHeadDim + column);
  }
  const float x = fmaf(part.out.x, factor, add.x), y = fmaf(part.out.y, factor, add.y);
  const float z = fmaf(part.out.z, factor, add.z), w = fmaf(part.out.w, factor, add.w);
  const uint2 words =
      params.out_is_bf16
          ? make_uint2(ptx::floats_to_bfloat_pair(x, y), ptx::floats_to_bfloat_pair(z, w))
          : make_uint2(ptx::floats_to_half_pair(x, y), ptx::floats_to_half_pair(z, w));
  *reinterpret_cast<uint2*>(params.out + row_offset(params, task, row, C::kHeadDim) + column) =
      words;
}

/// Place of a block's part of a shared task. A block's first segment may continue a task, its last
/// may begin one.
template <class C>
__device__ __forceinline__ float* part_of(const DecodeKernelParams& params, int block,
                                          bool begins) {
  return params.partial + (2 * int64_t{block} + begins) * (C::kRows * (C::kHeadDim + 2));
}

/// The last block to come to a shared task sums the parts of all, in their order.
template <class C>
__device__ void combine_blocks(const DecodeKernelParams& params, const TaskRows& task, int first,
                               int last, float* factors, int thread) {
  constexpr int kOut = C::kRows * C::kHeadDim;
  const int count = last - first + 1;
  for (int i = thread; i < count * C::kRows; i += 32 * C::kWarps) {
    const int block = i / C::kRows, row = i % C::kRows;
    factors[i] = __ldcg(part_of<C>(params, first + block, block == 0) + kOut + row);
  }
  compute_barrier<C>();
  for (int e = thread; e < task.rows * (C::kHeadDim / 4); e += 32 * C::kWarps) {
    const int row = e / (C::kHeadDim / 4), column = e % (C::kHeadDim / 4) * 4;
    RowPart part{make_float4(0, 0, 0, 0), kNoPeak, 0.0f};
    for (int i = 0; i < count; ++i) part.peak = fmaxf(part.peak, factors[i * C::kRows + row]);
#pragma unroll 8
    for (int i = 0; i < count; ++i) {
      const float* from = part_of<C>(params, first + i, i == 0);
      const float factor = ptx::exp2_approx(factors[i * C::kRows + row] - part.peak);
      part.sum = fmaf(__ldcg(from + kOut + C::kRows + row), factor, part.sum);
      add_scaled(part.out,
                 __ldcg(reinterpret_cast<const float4*>(from + row * C::kHeadDim + column)),
                 factor);
    }
    store_part<C>(params, task, row, column, part);
  }
}

/// Called by all computing warps after those that had pages of the segment left their rows.
template <class C>
__device__ void finish_segment(const DecodeKernelParams& params, const Schedule& schedule,
                               const Segment& segment, MergeBuffer<C>& buffer, int first_warp,
                               uint32_t* is_last, int thread) {
  constexpr int kOut = C::kRows * C::kHeadDim;
  const TaskRows task = task_rows<C>(params, segment);
  const int pages = segment.end_page - segment.first_page;
  const bool whole = pages == segment.pages;
  float* own = part_of<C>(params, blockIdx.x, segment.first_page == 0);
  compute_barrier<C>();
  for (int e = thread; e < task.rows * (C::kHeadDim / 4); e += 32 * C::kWarps) {
    const int row = e / (C::kHeadDim / 4), column = e % (C::kHeadDim / 4) * 4;
    const RowPart part = merge_warps<C>(buffer, first_warp, min(pages, C::kWarps), row, column);
    if (whole) {
      store_part<C>(params, task, row, column, part);
    } else {
      __stcg(reinterpret_cast<float4*>(own + row * C::kHeadDim + column), part.out);
      if (column == 0) {
        __stcg(own + kOut + row, part.peak);
        __stcg(own + kOut + C::kRows + row, part.sum);
      }
    }
  }
  if (!whole) {
    const int first = schedule.first_block(segment), last = schedule.last_block(segment);
    __threadfence();
    compute_barrier<C>();
    if (thread == 0) {
      uint32_t* counter = params.counters + segment.batch * params.num_kv_heads * params.row_tiles +
                          segment.head_tile;
      const bool is_last_block = atomicAdd(counter, 1u) == static_cast<uint32_t>(last - first);
      if (is_last_block) *counter = 0;  // ready for the next launch
      *is_last = is_last_block;
      __threadfence();
    }
    compute_barrier<C>();
    if (*is_last != 0) {
      combine_blocks<C>(params, task, first, last, &buffer.out[0][0][0], thread);
    }
  }
  compute_barrier<C>();  // the buffer may be filled again
}

}  // namespace kv8::decode
