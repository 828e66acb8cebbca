// The end of a query tile: merging the key groups' partial results, normalising, storing.
#pragma once

#include "cuda/attention/sm90/prefill/consumer.cuh"
#include "cuda/attention/sm90/prefill/kernel_params.cuh"
#include "cuda/ptx/sync.cuh"

namespace kv8::sm90 {

/// Hardware barriers; 0 is __syncthreads.
enum NamedBarrier : int { kSetupBarrier = 1, kMergeFull = 2, kMergeEmpty = 6 };

/// Row sums over all columns, where each of the four threads of a row has those of its own.
template <class C>
__device__ __forceinline__ void finish_sums(RowState<C>& rows) {
  if constexpr (C::kOnesRows == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows.sum[r] += __shfl_xor_sync(0xffffffffu, rows.sum[r], 1);
      rows.sum[r] += __shfl_xor_sync(0xffffffffu, rows.sum[r], 2);
    }
  }
}

/// A key group other than 0 leaves its partial result in shared memory.
template <class C>
__device__ __forceinline__ void hand_over(const RowState<C>& rows, float* buffer, int thread) {
#pragma unroll
  for (int i = 0; i < C::kHeadDim / 2; ++i) buffer[i * 128 + thread] = rows.out[i];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    buffer[(C::kHeadDim / 2 + r) * 128 + thread] = rows.offset[r];
    buffer[(C::kHeadDim / 2 + 2 + r) * 128 + thread] = rows.sum[r];
  }
}

/// Key group 0 takes another group's partial result in.
template <class C>
__device__ __forceinline__ void take_over(RowState<C>& rows, const float* buffer, int thread) {
  float own[2], other[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float offset = buffer[(C::kHeadDim / 2 + r) * 128 + thread];
    const float merged = fmaxf(rows.offset[r], offset);
    own[r] = ptx::exp2_approx(rows.offset[r] - merged);
    other[r] = ptx::exp2_approx(offset - merged);
    rows.offset[r] = merged;
    rows.sum[r] =
        rows.sum[r] * own[r] + buffer[(C::kHeadDim / 2 + 2 + r) * 128 + thread] * other[r];
  }
#pragma unroll
  for (int i = 0; i < C::kHeadDim / 2; ++i) {
    rows.out[i] = rows.out[i] * own[i / 2 % 2] + buffer[i * 128 + thread] * other[i / 2 % 2];
  }
}

/// Merges the key groups of one row group; true for the one that then holds the result.
template <class C>
__device__ __forceinline__ bool merge_key_groups(RowState<C>& rows, const SharedMemory<C>& smem,
                                                 int row_group, int key_group, int thread) {
  if constexpr (C::kKeyGroups > 1) {
    constexpr int kThreads = 128 * C::kKeyGroups;
    const int first_buffer = row_group * (C::kKeyGroups - 1);
    if (key_group > 0) {
      ptx::named_barrier_sync(kMergeEmpty + row_group, kThreads);
      hand_over<C>(rows, smem.merge(first_buffer + key_group - 1), thread);
      __threadfence_block();
      ptx::named_barrier_arrive(kMergeFull + row_group, kThreads);
      return false;
    }
    ptx::named_barrier_sync(kMergeFull + row_group, kThreads);
#pragma unroll
    for (int g = 0; g < C::kKeyGroups - 1; ++g) {
      take_over<C>(rows, smem.merge(first_buffer + g), thread);
    }
    ptx::named_barrier_arrive(kMergeEmpty + row_group, kThreads);
  }
  return true;
}

/// Gives lane q of each four the q-th of every four registers' columns, so that a thread holds eight
/// columns in a row: a 4 x 4 transpose of 32-bit values among four lanes.
__device__ __forceinline__ void transpose_quad(uint32_t (&x)[4], int q) {
  const bool odd = q & 1, high = q & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {  // exchange off-diagonal elements of 2 x 2 blocks
    const uint32_t sent = odd ? x[i] : x[i + 1];
    const uint32_t got = __shfl_xor_sync(0xffffffffu, sent, 1);
    if (odd) x[i] = got; else x[i + 1] = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // exchange off-diagonal blocks
    const uint32_t sent = high ? x[i] : x[i + 2];
    const uint32_t got = __shfl_xor_sync(0xffffffffu, sent, 2);
    if (high) x[i] = got; else x[i + 2] = got;
  }
}

/// Divides by the row sums and writes rows `first_row` and `first_row` + 8 of the tile, which lane q of
/// four shares with three others.
template <class C>
__device__ __forceinline__ void store_rows(const RowState<C>& rows, const KernelParams& params,
                                           const volatile TileInfo& info, int first_row, int q) {
  const float* offset =
      params.v_offset == nullptr ? nullptr : params.v_offset + info.kv_head * C::kHeadDim;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + 8 * r;
    const bool any = rows.sum[r] > 0.0f || rows.sum[r] != rows.sum[r];  // NaN stays NaN
    const float factor = any ? info.out_scale / rows.sum[r] : 0.0f;
    uint16_t* out = static_cast<uint16_t*>(params.out) +
                    (int64_t{info.first_token + row} * params.num_heads + info.head) * C::kHeadDim;
#pragma unroll
    for (int part = 0; part < C::kHeadDim / 32; ++part) {
      uint32_t x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = 4 * (4 * part + j) + 2 * r;
        float low = rows.out[i] * factor, high = rows.out[i + 1] * factor;
        if (offset != nullptr && any) {
          const int column = 32 * part + 8 * j + 2 * q;
          low += offset[column];
          high += offset[column + 1];
        }
        x[j] = params.out_is_bf16 ? ptx::floats_to_bfloat_pair(low, high)
                                  : ptx::floats_to_half_pair(low, high);
      }
      transpose_quad(x, q);
      if (row < info.rows) {
        *reinterpret_cast<uint4*>(out + 32 * part + 8 * q) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }
}

}  // namespace kv8::sm90
