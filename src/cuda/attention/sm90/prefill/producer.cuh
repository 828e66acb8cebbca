// The producer warpgroup: warp 0 picks query tiles and issues every copy; warp 1 clears what the
// cache pages hold behind a sequence's last token.
#pragma once

#include "cuda/attention/sm90/prefill/config.cuh"
#include "cuda/attention/sm90/prefill/kernel_params.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/tma.cuh"

namespace kv8::sm90 {

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// Reads a query tile's description, each field by its own lane so that their latencies overlap,
/// and the page table's first 32 entries with them.
template <class C>
struct TileReader {
  int lane;

  int batch = 0;
  int rank = 0;        ///< tiles of the same sequence and heads after this one
  int field = 0;       ///< lane 0: first token, 1: end, 2: kv_len
  float scale = 1.0f;  ///< lane 0: q_scale, 1: k_scale, 2: v_scale
  int page_ids = 0;    ///< this lane's entry of the 32 entries from 32 * page_window
  int page_window = 0;
  TileInfo info{};

  /// Issues the loads.
  __device__ void request(const KernelParams& params, int tile) {
    rank = params.tiles_per_rank.divide(tile);
    const int in_rank = tile - rank * static_cast<int>(params.tiles_per_rank.divisor);
    batch = params.head_groups.divide(in_rank);
    const int group = in_rank - batch * static_cast<int>(params.head_groups.divisor);
    info.head = group * static_cast<int>(params.packed_heads.divisor);
    info.kv_head = params.groups_per_kv.divide(group);
    if (lane < 2) field = params.cu_seqlens_q[batch + lane];
    if (lane == 2) field = params.kv_lens[batch];
    const float* scales = lane == 0 ? params.q_scale : lane == 1 ? params.k_scale : params.v_scale;
    if (lane < 3 && scales != nullptr) scale = scales[info.kv_head * params.scale_stride];
    load_pages(params, 0);
  }

  /// Waits for them and fills `info`.
  __device__ void receive(const KernelParams& params) {
    const int first = __shfl_sync(kAllLanes, field, 0);
    const int q_len = __shfl_sync(kAllLanes, field, 1) - first;
    info.kv_len = __shfl_sync(kAllLanes, field, 2);
    info.score_scale =
        params.score_scale * __shfl_sync(kAllLanes, scale, 0) * __shfl_sync(kAllLanes, scale, 1);
    info.out_scale = __shfl_sync(kAllLanes, scale, 2);

    // Tiles are cut from the last token upwards, so that the incomplete one has the fewest keys;
    // and the longest come first.
    const int end_token = q_len - rank * params.tile_tokens;
    const int first_token = max(end_token - params.tile_tokens, 0);
    const int tokens = end_token - first_token;
    info.first_token = first + first_token;
    info.rows = tokens * static_cast<int>(params.packed_heads.divisor);
    info.diagonal = first_token + info.kv_len - q_len;
    const int keys = min(info.diagonal + tokens, info.kv_len);
    info.key_tiles = keys > 0 ? (keys + C::kKeys - 1) / C::kKeys : 0;
  }

  __device__ void load_pages(const KernelParams& params, int window) {
    page_window = window;
    const int entry = 32 * window + lane;
    page_ids =
        entry < params.max_pages ? params.page_table[int64_t{batch} * params.max_pages + entry] : 0;
  }

  /// Physical page of the sequence's `page`-th; called by the whole warp.
  __device__ int page_id(const KernelParams& params, int page) {
    if (page / 32 != page_window) load_pages(params, page / 32);
    return __shfl_sync(kAllLanes, page_ids, page % 32);
  }
};

/// True where the last key tile reaches behind the last cached token.
template <class C>
__device__ __forceinline__ bool has_tail(const TileInfo& info) {
  return info.key_tiles * C::kKeys > info.kv_len;
}

/// Loads K and V of key tile `tile` into the stage at `cursor`. `pages` of its pages exist.
template <class C>
__device__ void load_key_tile(const KernelParams& params, SharedMemory<C> smem,
                              StageCursor<C> cursor, TileReader<C>& reader, int tile) {
  const TileInfo& info = reader.info;
  const int total_pages = (info.kv_len + kPageRows - 1) / kPageRows;
  const int pages = min(C::kPages, total_pages - tile * C::kPages);
  const bool tail = tile == info.key_tiles - 1 && has_tail<C>(info);
  const int stage = cursor.slot();
  int block[C::kPages];  // row of blocks: page * num_kv_heads + kv_head
#pragma unroll
  for (int i = C::kPages - 1; i >= 0; --i) {
    if (i < pages) {
      block[i] = reader.page_id(params, tile * C::kPages + i) * params.num_kv_heads + info.kv_head;
    }
  }

  ptx::mbarrier_wait(smem.k_empty(stage), cursor.parity() ^ 1);
  if (reader.lane == 0) {
    ptx::mbarrier_arrive_expect(smem.k_full(stage), pages * (C::kKBytes / C::kPages));
#pragma unroll
    for (int i = 0; i < C::kPages; ++i) {
      if (i < pages) {
#pragma unroll
        for (int chunk = 0; chunk < C::kChunks; ++chunk) {
          ptx::tma_load_2d(smem.k(stage) + (chunk * C::kKeys + i * kPageRows) * C::kChunkBytes,
                           &params.k_map, smem.k_full(stage),
                           chunk * (C::kChunkBytes / C::kElemBytes), block[i] * kPageRows);
        }
      }
    }
  }
  ptx::mbarrier_wait(smem.v_empty(stage), cursor.parity() ^ 1);
  if (reader.lane == 0) {
    const uint32_t full = tail ? smem.v_tail(stage) : smem.v_full(stage);
    ptx::mbarrier_arrive_expect(full, pages * C::kHeadDim * C::kVRowBytes);
#pragma unroll
    for (int i = 0; i < C::kPages; ++i) {
      if (i < pages) {
        ptx::tma_load_2d(smem.v(stage) + i * C::kVPageBytes, &params.v_map, full, 0,
                         block[i] * C::kHeadDim);
      }
    }
  }
  __syncwarp();
}

/// Takes the next tile number from the counter that all blocks share; called by one lane.
__device__ __forceinline__ int take_tile(const KernelParams& params) {
  return static_cast<int>(gridDim.x + atomicAdd(&params.scheduler[0], 1u));
}

/// The last block to run out of tiles zeroes the shared counter for the next launch.
__device__ __forceinline__ void finish_tiles(const KernelParams& params) {
  if (atomicAdd(&params.scheduler[1], 1u) == gridDim.x - 1) {
    params.scheduler[0] = 0;
    params.scheduler[1] = 0;
  }
}

/// Publishes a tile's description and loads its Q.
template <class C>
__device__ void load_queries(const KernelParams& params, SharedMemory<C> smem,
                             const TileReader<C>& reader, QCursor<C>& slots) {
  ptx::mbarrier_wait(smem.q_empty(slots.slot()), slots.parity() ^ 1);
  if (reader.lane == 0) {
    *reinterpret_cast<TileInfo*>(smem.generic(smem.info(slots.slot()))) = reader.info;
    ptx::mbarrier_arrive_expect(smem.q_full(slots.slot()), params.q_bytes);
#pragma unroll
    for (int chunk = 0; chunk < C::kChunks; ++chunk) {
      ptx::tma_load_3d(smem.q(slots.slot()) + chunk * C::kRows * C::kChunkBytes, &params.q_map,
                       smem.q_full(slots.slot()), chunk * (C::kChunkBytes / C::kElemBytes),
                       reader.info.head, reader.info.first_token);
    }
  }
  __syncwarp();
  slots.advance();
}

/// `reader` has requested the block's first tile.
template <class C>
__device__ void produce(const KernelParams& params, SharedMemory<C> smem, TileReader<C>& reader) {
  StageCursor<C> stages;
  QCursor<C> slots;
  const bool one_wave = static_cast<int>(gridDim.x) >= params.total_tiles;
  int tile = blockIdx.x;
  bool first = true;
  while (tile < params.total_tiles) {
    reader.receive(params);
    if (reader.info.rows > 0) {
      int key_tile = reader.info.key_tiles - 1;
      if (!first && C::kQStages == 1 && key_tile >= 0) {  // the last tile still needs the Q slot
        load_key_tile<C>(params, smem, stages, reader, key_tile--);
        stages.advance();
      }
      load_queries<C>(params, smem, reader, slots);
      for (; key_tile >= 0; --key_tile) {
        load_key_tile<C>(params, smem, stages, reader, key_tile);
        stages.advance();
      }
      first = false;
    }
    // Taken as late as the loads allow: whoever finishes first gets the longest tile left.
    int next = params.total_tiles;
    if (!one_wave && reader.lane == 0) next = take_tile(params);
    tile = __shfl_sync(kAllLanes, next, 0);
    if (tile < params.total_tiles) reader.request(params, tile);
  }
  if (reader.lane == 0) {
    if (!one_wave) finish_tiles(params);
    ptx::mbarrier_wait(smem.q_empty(slots.slot()), slots.parity() ^ 1);
    reinterpret_cast<TileInfo*>(smem.generic(smem.info(slots.slot())))->key_tiles = kNoMoreTiles;
    ptx::mbarrier_arrive(smem.q_full(slots.slot()));
  }
}

/// Zeroes V of tokens `first_token` .. kKeys - 1 of a tile as far as anyone multiplies by it. Their
/// probabilities are zero, but what an unused slot of a page holds may be NaN, and 0 * NaN would
/// spoil the whole row.
template <class C>
__device__ void clear_tail(uint8_t* v_tile, int first_token, int lane) {
  constexpr int kPieces = C::kVRowBytes / 16;       // 16-byte pieces of a row
  constexpr int kPieceTokens = 16 / C::kElemBytes;  // one permuted group of FP8
  // The serial loop leaves out the pages behind the last token's.
  const int last_page = C::kLoop == Loop::kSerial ? (first_token - 1) / kPageRows : C::kPages - 1;
  for (int page = first_token / kPageRows; page <= last_page; ++page) {
    uint8_t* rows = v_tile + page * C::kVPageBytes;
    const int keep = max(first_token - page * kPageRows, 0);
    for (int piece = keep / kPieceTokens; piece < kPieces; ++piece) {
      const int kept = keep - piece * kPieceTokens;  // tokens of this piece that stay, if positive
      uint4 mask = make_uint4(0, 0, 0, 0);
      uint32_t* words = reinterpret_cast<uint32_t*>(&mask);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if constexpr (C::kFp8) {  // word w holds tokens 2w, 2w + 1, 2w + 8, 2w + 9
          if (2 * w < kept) words[w] |= 0x000000ffu;
          if (2 * w + 1 < kept) words[w] |= 0x0000ff00u;
          if (2 * w + 8 < kept) words[w] |= 0x00ff0000u;
          if (2 * w + 9 < kept) words[w] |= 0xff000000u;
        } else {
          if (2 * w < kept) words[w] |= 0x0000ffffu;
          if (2 * w + 1 < kept) words[w] |= 0xffff0000u;
        }
      }
#pragma unroll 4
      for (int row = lane; row < C::kHeadDim; row += 32) {
        const int swizzled = piece ^ (kPieces == 8 ? row % 8 : row / 2 % 4);
        uint4* at = reinterpret_cast<uint4*>(rows + row * C::kVRowBytes + swizzled * 16);
        uint4 value = *at;
        value.x &= mask.x;
        value.y &= mask.y;
        value.z &= mask.z;
        value.w &= mask.w;
        *at = value;
      }
    }
  }
}

template <class C>
__device__ void clear_tails(SharedMemory<C> smem, int lane) {
  StageCursor<C> stages;
  QCursor<C> slots;
  uint32_t tail_phases = 0;  // a bit for each stage
  for (;;) {
    ptx::mbarrier_wait(smem.q_full(slots.slot()), slots.parity());
    const TileView info{smem.info(slots.slot())};
    const int kv_len = info.kv_len(), key_tiles = info.key_tiles();
    if (key_tiles == kNoMoreTiles) return;
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(smem.q_empty(slots.slot()));
    slots.advance();
    if (key_tiles * C::kKeys > kv_len) {  // has_tail
      const int stage = stages.slot();
      ptx::mbarrier_wait(smem.v_tail(stage), tail_phases >> stage & 1);
      tail_phases ^= 1u << stage;
      uint8_t* v_tile = smem.generic(smem.v(stage));
      clear_tail<C>(v_tile, kv_len - (key_tiles - 1) * C::kKeys, lane);
      ptx::fence_async_shared();
      __syncwarp();
      if (lane == 0) ptx::mbarrier_arrive(smem.v_full(stage));
    }
    stages.advance_by(key_tiles);
  }
}

}  // namespace kv8::sm90
