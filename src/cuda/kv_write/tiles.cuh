// V where a sequence has many new tokens: a page's tile is transposed through shared memory.
#pragma once

#include "cuda/kv_write/rows.cuh"

namespace kv8::kv_write {

/// A block's part of a page of V: kDims dims of one head or of several, which follow each other; a
/// thread takes four tokens of eight dims.
template <class C>
struct TileShape {
  static constexpr int kDims = kThreads / 2;
  static constexpr int kWords = C::kElemBytes;         // 32-bit words of four tokens
  static constexpr int kPitch = 16 * kWords + kWords;  // words of one dim's 64 tokens
};

/// A page of one sequence that new tokens fall into.
struct Tile {
  int first_row;  ///< row of the page's token 0, possibly negative
  int64_t page;
  uint64_t tokens;  ///< a bit for each new token of the page; none where the slot has none
};

/// The new tokens of a page that have a position; called by whole warps.
__device__ __forceinline__ uint64_t not_padding(const KvWriteArgs& args, const Tile& tile,
                                                int lane) {
  uint64_t tokens = 0;
#pragma unroll
  for (int base = 0; base < kPageTokens; base += 32) {
    const int token = base + lane;
    const bool real =
        (tile.tokens >> token & 1) != 0 && args.positions[tile.first_row + token] >= 0;
    tokens |= uint64_t{__ballot_sync(kAllLanes, real)} << base;
  }
  return tokens;
}

/// The `index`-th page of sequence b, whose rows begin at `first_row` and whose first `past` tokens
/// are old; called by whole warps.
__device__ __forceinline__ Tile tile_of(const KvWriteArgs& args, int b, int first_row, int past,
                                        int len, int index, int lane) {
  Tile tile;
  tile.page = args.page_table[int64_t{b} * args.max_pages + index];
  tile.first_row = first_row + index * kPageTokens - past;
  const int begin = max(past - index * kPageTokens, 0);
  const int end = min(len - index * kPageTokens, kPageTokens);
  tile.tokens = ~uint64_t{0} >> (kPageTokens - end + begin) << begin;
  if (args.positions != nullptr) tile.tokens &= not_padding(args, tile, lane);
  return tile;
}

/// The `slot`-th page with new tokens; called by whole warps.
__device__ __forceinline__ Tile find_tile(const KvWriteArgs& args, int slot, int lane) {
  if (args.batch == 1) {
    const int len = args.kv_lens[0], past = len - args.rows;
    const int index = past / kPageTokens + slot;
    if (index * kPageTokens >= len) return Tile{0, 0, 0};
    return tile_of(args, 0, 0, past, len, index, lane);
  }
  int before = 0;
  for (int base = 0; base < args.batch; base += 32) {
    const int b = min(base + lane, args.batch - 1);
    const int rows = args.cu_rows[b + 1] - args.cu_rows[b];
    const int len = args.kv_lens[b], past = len - rows;
    const int pages =
        rows > 0 && base + lane < args.batch ? (len - 1) / kPageTokens - past / kPageTokens + 1 : 0;
    int sum = pages;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, d);
      if (lane >= d) sum += other;
    }
    const uint32_t holds = __ballot_sync(kAllLanes, slot < before + sum);
    if (holds != 0) {
      const int owner = __ffs(holds) - 1;
      const int owner_past = __shfl_sync(kAllLanes, past, owner);
      const int owner_len = __shfl_sync(kAllLanes, len, owner);
      const int index =
          owner_past / kPageTokens + slot - before - __shfl_sync(kAllLanes, sum - pages, owner);
      return tile_of(args, base + owner, args.cu_rows[base + owner], owner_past, owner_len, index,
                     lane);
    }
    before += __shfl_sync(kAllLanes, sum, 31);
  }
  return Tile{0, 0, 0};
}

/// The first of the four tokens that share one run of V's positions. The others lie
/// v_group_token(1 .. 3) behind it.
template <class C>
__device__ __forceinline__ int first_token_of(int quad) {
  return C::kFp8Cache ? (quad & ~3) * 4 + 2 * (quad & 3) : 4 * quad;
}

/// Rounds a tile of V and leaves it transposed in shared memory: [dim][64 tokens]. `first_dim`
/// counts over all heads. kWhole: all tokens of the page are new.
template <class C, bool kWhole>
__device__ __forceinline__ void round_tile(const KvWriteArgs& args, const Tile& tile, int first_dim,
                                           uint32_t* shared) {
  // Eight fours of tokens and four eights of dims a warp: no bank conflicts on the way in.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int octet = lane % 4 + 4 * (warp / 2), quad = lane / 4 + 8 * (warp % 2);
  const int dim = first_dim + 8 * octet, head = dim / C::kHeadDim;
  if (head >= args.num_kv_heads) return;
  const int first_column = (args.num_heads + args.num_kv_heads) * C::kHeadDim;
  const int columns = first_column + args.num_kv_heads * C::kHeadDim;
  const int first = first_token_of<C>(quad);
  const uint32_t mine = static_cast<uint32_t>(tile.tokens >> first);
  const uint16_t* source = static_cast<const uint16_t*>(args.qkv) +
                           int64_t{tile.first_row + first} * columns + first_column + dim;
  uint4 raw[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int behind = v_group_token(i, C::kElemBytes);
    raw[i] = make_uint4(0, 0, 0, 0);
    if (kWhole || (mine >> behind & 1) != 0) {
      raw[i] = __ldcs(reinterpret_cast<const uint4*>(source + behind * columns));
    }
  }
  float x[4][8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    widen<C::kBf16>(raw[i], x[i]);
    if (!C::kPlain && args.v_offset != nullptr) {
#pragma unroll
      for (int d = 0; d < 8; ++d) x[i][d] = __fsub_rn(x[i][d], args.v_offset[dim + d]);
    }
  }
  if constexpr (C::kFp8Cache) {
    const KvScale scale = scale_of(args, kV, args.num_heads + args.num_kv_heads + head);
    if (product_suffices<C>(args, scale.inverse)) [[likely]] {
      products(x, scale.inverse);
    } else {
      quotients(x, scale);
    }
  }
  uint32_t* to = shared + 8 * octet * TileShape<C>::kPitch + quad * TileShape<C>::kWords;
#pragma unroll
  for (int d = 0; d < 8; ++d) {
    if constexpr (C::kFp8Cache) {
      to[d * TileShape<C>::kPitch] = ptx::floats_to_e4m3(x[0][d], x[1][d], x[2][d], x[3][d]);
    } else {
      *reinterpret_cast<uint2*>(to + d * TileShape<C>::kPitch) = make_uint2(
          ptx::floats_to_half_pair(x[0][d], x[1][d]), ptx::floats_to_half_pair(x[2][d], x[3][d]));
    }
  }
}

/// Stores 16 bytes of V's positions, of which those of old or future tokens must stay as they are.
template <class C, bool kWhole>
__device__ __forceinline__ void place_positions(uint8_t* to, const uint4& value, int first_position,
                                                const Tile& tile) {
  constexpr int kPositions = 16 / C::kElemBytes;
  const int group = first_position & ~15;
  if (kWhole || (~tile.tokens >> group & 0xffff) == 0) {
    *reinterpret_cast<uint4*>(to) = value;
    return;
  }
  using Element = std::conditional_t<C::kFp8Cache, uint8_t, uint16_t>;
  const uint32_t words[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
  for (int i = 0; i < kPositions; ++i) {
    const int position = first_position + i;
    const int token = group + v_group_token(position & 15, C::kElemBytes);
    if ((tile.tokens >> token & 1) != 0) {
      reinterpret_cast<Element*>(to)[i] =
          static_cast<Element>(words[i * C::kElemBytes / 4] >> (8 * (i * C::kElemBytes % 4)));
    }
  }
}

/// One block, the new tokens of one page of V, kDims dims of it from `first_dim` on.
template <class C, bool kWhole>
__device__ __forceinline__ void write_tile(const KvWriteArgs& args, const Tile& tile, int first_dim,
                                           uint32_t* shared) {
  round_tile<C, kWhole>(args, tile, first_dim, shared);
  __syncthreads();
  constexpr int kPieces = 4 * C::kElemBytes;  // 16-byte pieces of one dim's 64 tokens
  constexpr int kTurnDims = kThreads / kPieces;
  const int piece = threadIdx.x % kPieces, dim = threadIdx.x / kPieces;
  const KvLayout layout = layout_of<C>(args);
  uint8_t* to =
      static_cast<uint8_t*>(args.v_pool) +
      (layout.head_offset(tile.page, 0) + (first_dim + dim) * kPageTokens) * C::kElemBytes +
      16 * piece;
  const uint32_t* from = shared + dim * TileShape<C>::kPitch + 4 * piece;
  const int end = args.num_kv_heads * C::kHeadDim - first_dim - dim;
#pragma unroll
  for (int i = 0; i < TileShape<C>::kDims; i += kTurnDims) {
    if (i >= end) return;
    const uint32_t* words = from + i * TileShape<C>::kPitch;
    place_positions<C, kWhole>(to + i * (kPageTokens * C::kElemBytes),
                               make_uint4(words[0], words[1], words[2], words[3]),
                               16 / C::kElemBytes * piece, tile);
  }
}

/// Blocks with rows first, then those with tiles.
template <class C>
__global__ void __launch_bounds__(kThreads, C::kPlain ? 7 : 4)
    rope_quantize_write_many(const __grid_constant__ KvWriteArgs args,
                             const __grid_constant__ Grid grid) {
  constexpr int kWarps = kThreads / 32;
  constexpr int kTileBytes = TileShape<C>::kDims * TileShape<C>::kPitch * 4;
  constexpr int kRingBytes = kWarps * static_cast<int>(sizeof(Ring));
  __shared__ __align__(16) uint8_t shared[kTileBytes > kRingBytes ? kTileBytes : kRingBytes];
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const int block = static_cast<int>(blockIdx.x);
  if (block < grid.row_blocks) {
    write_row<C>(args, grid, block * kWarps + threadIdx.x / 32, threadIdx.x % 32,
                 reinterpret_cast<Ring*>(shared)[threadIdx.x / 32]);
  } else {
    const unsigned per_page = static_cast<unsigned>(grid.tiles_per_page);
    const unsigned tile = static_cast<unsigned>(block - grid.row_blocks), slot = tile / per_page;
    const int first_dim = static_cast<int>(tile - slot * per_page) * TileShape<C>::kDims;
    const Tile at = find_tile(args, static_cast<int>(slot), threadIdx.x % 32);
    if (at.tokens == ~uint64_t{0}) {
      write_tile<C, true>(args, at, first_dim, reinterpret_cast<uint32_t*>(shared));
    } else if (at.tokens != 0) {
      write_tile<C, false>(args, at, first_dim, reinterpret_cast<uint32_t*>(shared));
    }
  }
}

}  // namespace kv8::kv_write
