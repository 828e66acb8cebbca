// Prefill attention with mma.sync and cp.async only. See docs/attention-portable.md.
#pragma once

#include "cuda/attention/portable/prefill/warp_rows.cuh"
#include "cuda/ptx/async_copy.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/sync.cuh"

namespace kv8::portable {

/// A block's 128 rows of one head of one sequence. Rows are cut from the sequence's end, so that
/// the incomplete tile is the one with the fewest keys; `first_row` may be negative there.
struct PrefillTile {
  int head, kv_head, batch;
  int first_token;  ///< of the sequence in q
  int first_row;
  int kv_len;
  int keys;  ///< that any of the rows sees
};

/// Grid: heads, sequences, row tiles from the end of a sequence. False where there is no row.
template <class C>
__device__ __forceinline__ bool find_tile(const PrefillParams& params, PrefillTile& tile) {
  tile.head = blockIdx.x;
  tile.batch = blockIdx.y;
  tile.kv_head = tile.head / (params.num_heads / params.num_kv_heads);
  tile.first_token = params.cu_seqlens_q[tile.batch];
  const int q_len = params.cu_seqlens_q[tile.batch + 1] - tile.first_token;
  const int end_row = q_len - C::kRows * static_cast<int>(blockIdx.z);
  tile.first_row = end_row - C::kRows;
  tile.kv_len = params.kv_lens[tile.batch];
  tile.keys = max(tile.kv_len - (q_len - end_row), 0);
  return end_row > 0;
}

/// Copies one page of K and V into a stage.
template <class C>
__device__ __forceinline__ void load_page(const PrefillParams& params, int kv_head, int page_id,
                                          uint32_t stage) {
  const int thread = ptx::thread_index();  // read again: it costs no register between pages
  const int64_t block =
      (int64_t{page_id} * params.num_kv_heads + kv_head) * C::kPageBytes + 16 * thread;
  constexpr int kBytesAtOnce = 16 * C::kThreads;
#pragma unroll
  for (int at = 0; at < C::kPageBytes; at += kBytesAtOnce) {
    const int row = 16 * thread / C::kKRowBytes + at / C::kKRowBytes;
    ptx::async_copy_16(stage + k_offset<C>(row, 16 * thread % C::kKRowBytes), params.k + block + at,
                       16);
  }
#pragma unroll
  for (int at = 0; at < C::kPageBytes; at += kBytesAtOnce) {
    const int row = 16 * thread / C::kVRowBytes + at / C::kVRowBytes;
    ptx::async_copy_16(stage + C::kPageBytes + v_offset<C>(row, 16 * thread % C::kVRowBytes),
                       params.v + block + at, 16);
  }
}

/// Leaves the warp's query fragments in shared memory, where each lane finds its own. `kFromCodes`:
/// queries are E4M3 and widened here. One kind at compile time, so that all loads are under way at
/// once.
template <class C, bool kFromCodes>
__device__ __forceinline__ void load_queries(const PrefillParams& params, const PrefillTile& tile,
                                             int warp_row, uint32_t q_rows, int lane) {
  const int g = lane / 4, q = lane % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int step = 0; step < C::kQSteps; ++step) {
      // Elements of a key that this lane meets in this step: half of a register pair's worth.
      const int dim = C::kKLoadBytes / C::kElemBytes * (4 * (step / C::kStepsPerLoad) + q) +
                      C::kDepth / 4 * (step % C::kStepsPerLoad);
      uint2 pairs[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = tile.first_row + warp_row + 16 * m + 8 * r + g;
        const int64_t at =
            (int64_t{tile.first_token + row} * params.num_heads + tile.head) * C::kHeadDim + dim;
        pairs[r] = make_uint2(0, 0);
        if (row < 0) continue;
        if constexpr (kFromCodes) {
          const uint32_t codes = *reinterpret_cast<const uint32_t*>(params.q + at);
          pairs[r] = ptx::e4m3_to_half_pairs(codes);
        } else {
          constexpr int kQBytes = C::kE4m3 ? 1 : 2;
          pairs[r] = *reinterpret_cast<const uint2*>(params.q + at * kQBytes);
        }
      }
      ptx::store_shared_16(q_rows + (m * C::kQSteps + step) * 512 + 16 * lane,
                           make_uint4(pairs[0].x, pairs[1].x, pairs[0].y, pairs[1].y));
    }
  }
}

/// Writes row `r` of the four. Lanes 2i and 2i + 1 of a row exchange halves of every two groups of
/// eight columns, so that each writes four columns in a row and all four lanes a sector.
template <class C, class Pack>
__device__ __forceinline__ void store_row(const float (&out)[C::kHeadDim / 8][4], int r,
                                          bool exists, uint16_t* to, int q, Pack pack) {
  const bool odd = q & 1;
#pragma unroll
  for (int j = 0; j < C::kHeadDim / 8; j += 2) {
    const uint32_t left = pack(out[j][2 * r], out[j][2 * r + 1]);
    const uint32_t right = pack(out[j + 1][2 * r], out[j + 1][2 * r + 1]);
    const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
    const uint2 four = odd ? make_uint2(got, right) : make_uint2(left, got);
    if (exists) *reinterpret_cast<uint2*>(to + 8 * j + (odd ? 8 + 2 * (q - 1) : 2 * q)) = four;
  }
}

__device__ __forceinline__ float scale_at(const float* scales, int at) {
  return scales == nullptr ? 1.0f : scales[at];
}

/// Divides by the row sums and writes the warp's rows. Everything but the state is found again:
/// nothing must be kept in registers over the loop for the end.
template <class C>
__device__ __forceinline__ void store_rows(RowState<C>& rows, const PrefillParams& params) {
  PrefillTile tile;
  find_tile<C>(params, tile);
  const int thread = ptx::thread_index();
  const int warp_row = thread / 32 * C::kWarpRows, g = thread % 32 / 4, q = thread % 4;
  const float v_scale = scale_at(params.v_scale, tile.kv_head * params.scale_stride);
#pragma unroll
  for (int half = 0; half < 4; ++half) {
    const int m = half / 2, r = half % 2;
    const int row = tile.first_row + warp_row + 8 * half + g;
    const float sum = rows.sum[half];
    const bool empty = sum == 0.0f;  // no key: zeros
    const float factor = empty ? 0.0f : __fdividef(v_scale, sum);
#pragma unroll
    for (int t = 0; t < C::kHeadDim / 8; ++t) {
      float2 add = make_float2(0.0f, 0.0f);
      if (params.v_offset != nullptr && !empty) {
        add = *reinterpret_cast<const float2*>(params.v_offset + tile.kv_head * C::kHeadDim +
                                               8 * t + 2 * q);
      }
      rows.out[m][t][2 * r] = fmaf(rows.out[m][t][2 * r], factor, add.x);
      rows.out[m][t][2 * r + 1] = fmaf(rows.out[m][t][2 * r + 1], factor, add.y);
    }
    uint16_t* to = static_cast<uint16_t*>(params.out) +
                   (int64_t{tile.first_token + row} * params.num_heads + tile.head) * C::kHeadDim;
    if (params.out_is_bf16) {
      store_row<C>(rows.out[m], r, row >= 0, to, q, ptx::floats_to_bfloat_pair);
    } else {
      store_row<C>(rows.out[m], r, row >= 0, to, q, ptx::floats_to_half_pair);
    }
  }
}

/// Attends to half `half` of the page in `stage`. `keys`: keys of the half that the warp's row 0
/// sees, `kept`: those that exist.
template <class C, bool kMasked>
__device__ __forceinline__ void attend_half(RowState<C>& rows, uint32_t stage, int half,
                                            uint32_t q_rows, float scale, int keys, int kept,
                                            int lane) {
  const int g = lane / 4, q = lane % 4;
  ScoreTiles<C> s;
  score_keys<C>(stage + half * (C::kPageBytes / 2), q_rows, lane, s);
  soften<C, kMasked>(rows, s, scale, keys + g, q);
  const uint32_t v_rows = stage + C::kPageBytes + v_offset<C>(g, C::kVLoadBytes * (4 * half + q));
  weigh_values<C, kMasked>(rows, v_rows, s, kept, q);
}

template <class C>
__device__ __forceinline__ void attend_tile(const PrefillParams& params, const PrefillTile& tile,
                                            uint32_t memory) {
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const int warp_row = C::kWarpRows * warp;
  const uint32_t q_rows = memory + warp * (C::kQBytes / C::kWarps);
  const uint32_t stages = memory + C::kQBytes;
  const int32_t* table = params.page_table + int64_t{tile.batch} * params.max_pages;
  const int scale_index = tile.kv_head * params.scale_stride;
  const float scale = params.score_scale * scale_at(params.q_scale, scale_index) *
                      scale_at(params.k_scale, scale_index);
  // Keys that the warp's first row sees; the last one sees 31 more. Without any row: none.
  const bool any_row = tile.first_row + warp_row + C::kWarpRows > 0;
  const int first_keys = any_row ? tile.keys - (C::kRows - 1) + warp_row : -C::kWarpRows;

  int page = (tile.keys + kPageTokens - 1) / kPageTokens - 1;
  int next_id = page >= 1 ? table[page - 1] : 0;
  const auto stage_of = [&](int page) { return stages + page % 2 * C::kStageBytes; };
  if (page >= 0) load_page<C>(params, tile.kv_head, table[page], stage_of(page));
  ptx::async_copy_commit();
  if (C::kWidened && !params.q_is_f16) {
    load_queries<C, C::kWidened>(params, tile, warp_row, q_rows, lane);
  } else {
    load_queries<C, false>(params, tile, warp_row, q_rows, lane);
  }
  RowState<C> rows;
  rows.reset();
  for (; page >= 0; --page) {
    ptx::async_copy_wait<0>();
    __syncthreads();  // the page is there, and the other stage no longer read
    if (page >= 1) {
      load_page<C>(params, tile.kv_head, next_id, stage_of(page - 1));
      if (page >= 2) next_id = table[page - 2];
    }
    ptx::async_copy_commit();
#pragma unroll 1
    for (int half = 1; half >= 0; --half) {
      const int before = kPageTokens * page + C::kKeys * half;
      if (before >= first_keys + C::kWarpRows - 1) continue;
      if (before + C::kKeys > first_keys) {
        attend_half<C, true>(rows, stage_of(page), half, q_rows, scale, first_keys - before,
                             tile.kv_len - before, lane);
      } else {
        attend_half<C, false>(rows, stage_of(page), half, q_rows, scale, C::kKeys, C::kKeys, lane);
      }
    }
  }
  store_rows<C>(rows, params);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 2)
    prefill_attention(const __grid_constant__ PrefillParams params) {
  extern __shared__ __align__(128) uint8_t memory[];
  PrefillTile tile;
  if (find_tile<C>(params, tile)) attend_tile<C>(params, tile, ptx::shared_address(memory));
}

}  // namespace kv8::portable
