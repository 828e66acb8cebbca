// The end of a query tile: merging the key groups' partial results, normalising, storing.
#pragma once

#include "cuda/attention/sm90/prefill/consumer.cuh"
#include "cuda/attention/sm90/prefill/kernel_params.cuh"
#include "cuda/ptx/sync.cuh"

namespace kv8::sm90 {

/// Hardware barriers; 0 is __syncthreads.
enum NamedBarrier : int { kMergeFull = 2, kMergeEmpty = 6 };

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

/// What is left of a TileInfo to know where rows go.
struct OutputTile {
  int first_token;
  int rows;
  int head;
  int kv_head;
  float scale;
};

/// Writes one row in the output's type. Lanes 2i and 2i + 1 of a row exchange halves of every two
/// groups of eight columns, so that each writes four columns in a row and all four lanes a sector.
template <class C, class Pack>
__device__ __forceinline__ void store_row(const RowState<C>& rows, int r, float factor, bool inside,
                                          uint16_t* out, int q, Pack pack) {
  const bool odd = q & 1;
#pragma unroll
  for (int j = 0; j < C::kHeadDim / 8; j += 2) {
    const int i = 4 * j + 2 * r;
    const uint32_t left = pack(rows.out[i] * factor, rows.out[i + 1] * factor);
    const uint32_t right = pack(rows.out[i + 4] * factor, rows.out[i + 5] * factor);
    const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
    const uint2 four = odd ? make_uint2(got, right) : make_uint2(left, got);
    if (inside) *reinterpret_cast<uint2*>(out + 8 * j + (odd ? 8 + 2 * (q - 1) : 2 * q)) = four;
  }
}

/// Divides by the row sums and writes rows `first_row` and `first_row` + 8 of the tile, which lane
/// q of four shares with three others.
template <class C>
__device__ __forceinline__ void store_rows(RowState<C>& rows, const KernelParams& params,
                                           const OutputTile& tile, int first_row, int q) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + 8 * r;
    const bool empty = rows.sum[r] == 0.0f;  // no key: zeros
    float factor = empty ? 0.0f : __fdividef(tile.scale, rows.sum[r]);
    if (params.v_offset != nullptr) {
      const float* offset = params.v_offset + tile.kv_head * C::kHeadDim;
#pragma unroll
      for (int i = 2 * r; i < C::kHeadDim / 2; i += 4) {
        const float2 add = *reinterpret_cast<const float2*>(offset + 2 * (i - 2 * r) + 2 * q);
        rows.out[i] = empty ? 0.0f : fmaf(rows.out[i], factor, add.x);
        rows.out[i + 1] = empty ? 0.0f : fmaf(rows.out[i + 1], factor, add.y);
      }
      factor = 1.0f;
    }
    const int token = params.packed_heads.divide(row);
    const int head = tile.head + row - token * static_cast<int>(params.packed_heads.divisor);
    uint16_t* out = static_cast<uint16_t*>(params.out) +
                    (int64_t{tile.first_token + token} * params.num_heads + head) * C::kHeadDim;
    const bool inside = row < tile.rows;
    if (params.out_is_bf16) {
      store_row<C>(rows, r, factor, inside, out, q, ptx::floats_to_bfloat_pair);
    } else {
      store_row<C>(rows, r, factor, inside, out, q, ptx::floats_to_half_pair);
    }
  }
}

}  // namespace kv8::sm90
