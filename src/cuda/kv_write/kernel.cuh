#pragma once

#include "cuda/kv_write/entry.h"
#include "cuda/kv_write/stages.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::kv_write {

inline constexpr int kThreads = 256;

/// kPlain: neither norms nor offsets nor the Hadamard transform, so that fewer registers do.
template <bool kBf16Model, bool kFp8CacheType, bool kFp8QType, int kDim, bool kIsPlain>
struct Shape {
  static constexpr bool kBf16 = kBf16Model;
  static constexpr bool kFp8Cache = kFp8CacheType;
  static constexpr bool kFp8Q = kFp8QType;
  static constexpr int kHeadDim = kDim;
  static constexpr bool kPlain = kIsPlain;
  static constexpr int kLanes = kDim / 16;  // that share a head
  static constexpr int kHeadsAtOnce = 32 / kLanes;
  static constexpr int kElemBytes = kFp8CacheType ? 1 : 2;
  // V tiles: a thread takes four tokens of eight dims.
  static constexpr int kTileHeads = 128 / kDim;
  static constexpr int kTileWords = kElemBytes;                    // 32-bit words of four tokens
  static constexpr int kTilePitch = 16 * kTileWords + kTileWords;  // words of one dim's 64 tokens
};

__device__ __forceinline__ KvLayout layout_of(const KvWriteArgs& args, int elem_bytes) {
  KvLayout layout;
  layout.num_kv_heads = args.num_kv_heads;
  layout.head_dim = args.head_dim;
  layout.elem_bytes = elem_bytes;
  return layout;
}

/// Whether every value that is rounded has the model's type.
__device__ __forceinline__ bool is_plain_but_norms(const KvWriteArgs& args) {
  return args.k_offset == nullptr && args.v_offset == nullptr && !args.hadamard;
}

/// The sequence of a row; called by whole warps.
__device__ __forceinline__ int sequence_of(const KvWriteArgs& args, const Grid& grid, int row,
                                           int lane) {
  if (args.batch == 1) return 0;
  if (grid.uniform_rows > 0) return row / grid.uniform_rows;
  int before = 0;  // sequences that end at or before the row
  for (int base = 0; base < args.batch; base += 32) {
    const bool ended = base + lane < args.batch && args.cu_rows[base + lane + 1] <= row;
    before += __popc(__ballot_sync(kAllLanes, ended));
  }
  return before;
}

/// Which of Q, K and V a head of a row belongs to.
struct HeadKind {
  bool is_q, is_v;
  int kv_head;  ///< of K and V
  __device__ HeadKind(const KvWriteArgs& args, int head)
      : is_q(head < args.num_heads),
        is_v(head >= args.num_heads + args.num_kv_heads),
        kv_head(head - args.num_heads - (is_v ? args.num_kv_heads : 0)) {}
};

/// The scales of a row's heads; what all heads share is read once.
struct Scales {
  float q = 1.0f, k = 1.0f, v = 1.0f;
  int group = 1;  ///< query heads of a KV head
  __device__ __forceinline__ explicit Scales(const KvWriteArgs& args) {
    if (args.scale_per_head) {
      group = args.num_heads / args.num_kv_heads;
      return;
    }
    if (args.q_scale != nullptr) q = *args.q_scale;
    k = *args.k_scale;
    v = *args.v_scale;
  }
  __device__ __forceinline__ float of(const KvWriteArgs& args, int head) const {
    const HeadKind kind(args, head);
    if (!args.scale_per_head) return kind.is_q ? q : kind.is_v ? v : k;
    if (kind.is_q) return args.q_scale != nullptr ? args.q_scale[head / group] : 1.0f;
    return (kind.is_v ? args.v_scale : args.k_scale)[kind.kv_head];
  }
};

/// FP16 has none.
struct NoScales {
  __device__ explicit NoScales(const KvWriteArgs&) {}
};

/// What does not depend on the row's position, requested ahead of time.
template <class C>
struct RawHead {
  uint4 low, high;
  __device__ __forceinline__ void load(const uint4* row, int head, int j) {
    const uint4* from = row + head * (C::kHeadDim / 8);
    low = __ldcs(from + j);
    high = __ldcs(from + C::kLanes + j);
  }
};

/// What a row's heads have in common.
struct RowPlace {
  int64_t row;
  int64_t page;
  int slot;   ///< within the page
  bool pads;  ///< belongs to no token
};

template <class C>
__device__ __forceinline__ void finish_head(const KvWriteArgs& args, const RowPlace& at, Part x,
                                            const Part& angles, const Divisor& by, int head, int j,
                                            bool exists) {
  const auto [is_q, is_v, kv_head] = HeadKind(args, head);
  if constexpr (C::kPlain) {
    if (!is_v) rope<C::kBf16>(x, angles);
  } else {
    // Shuffles inside need every lane, so that what does not apply is computed and dropped.
    const void* norm = is_q ? args.q_norm : args.k_norm;
    if (args.q_norm != nullptr || args.k_norm != nullptr) {
      Part y = x;
      normalize<C::kBf16, C::kLanes>(y, norm != nullptr ? norm : args.qkv, args.norm_eps, j);
      if (norm != nullptr && !is_v) x = y;
    }
    if (!is_v) rope<C::kBf16>(x, angles);
    const float* offsets = is_q ? nullptr : is_v ? args.v_offset : args.k_offset;
    if (offsets != nullptr) transform<C::kLanes>(x, offsets + kv_head * C::kHeadDim, false, j);
    if (args.hadamard) {
      Part y = x;
      transform<C::kLanes>(y, nullptr, true, j);
      if (!is_v) x = y;
    }
  }
  if (!exists || (at.pads && !is_q)) return;
  if (at.pads) x = Part{};
  if constexpr (C::kFp8Q != C::kFp8Cache) {
    if (is_q) {
      place<C::kFp8Q, C::kLanes>(args.q_out, (at.row * args.num_heads + head) * C::kHeadDim, j,
                                 round<C::kFp8Q>(x.low, by, args.q_limit),
                                 round<C::kFp8Q>(x.high, by, args.q_limit));
      return;
    }
  }
  const KvLayout layout = layout_of(args, C::kElemBytes);
  const float limit = is_q ? args.q_limit : is_v ? 448.0f : args.k_limit;
  const auto low = round<C::kFp8Cache>(x.low, by, limit);
  const auto high = round<C::kFp8Cache>(x.high, by, limit);
  if (is_v) {
    place_column<C::kFp8Cache>(args.v_pool, layout.v_offset(at.page, kv_head, at.slot, 8 * j), low);
    place_column<C::kFp8Cache>(
        args.v_pool, layout.v_offset(at.page, kv_head, at.slot, 8 * (C::kLanes + j)), high);
  } else {
    place<C::kFp8Cache, C::kLanes>(is_q ? args.q_out : args.k_pool,
                                   is_q ? (at.row * args.num_heads + head) * C::kHeadDim
                                        : layout.k_offset(at.page, kv_head, at.slot, 0),
                                   j, low, high);
  }
}

/// One warp, some heads of one row.
template <class C>
__device__ void write_row(const KvWriteArgs& args, const Grid& grid, int warp, int lane) {
  const int row = grid.row_warps == 1 ? warp : warp / grid.row_warps;
  if (row >= args.rows) return;
  const int total = args.num_heads + args.num_kv_heads * (grid.tile_slots > 0 ? 1 : 2);
  const int turns = (total + C::kHeadsAtOnce - 1) / C::kHeadsAtOnce;
  const int first_turn = (warp - row * grid.row_warps) * grid.row_turns;
  const int end_turn = min(first_turn + grid.row_turns, turns);
  if (first_turn >= end_turn) return;
  const int j = lane % C::kLanes;
  const int heads = args.num_heads + 2 * args.num_kv_heads;
  const uint4* source =
      static_cast<const uint4*>(args.qkv) + int64_t{row} * heads * (C::kHeadDim / 8);
  const auto head_of = [&](int turn) { return turn * C::kHeadsAtOnce + lane / C::kLanes; };
  RawHead<C> next;
  next.load(source, min(head_of(first_turn), total - 1), j);
  std::conditional_t<C::kFp8Cache, Scales, NoScales> scales(args);

  const int b = sequence_of(args, grid, row, lane);
  const int first_row = grid.uniform_rows > 0 ? b * grid.uniform_rows : args.cu_rows[b];
  const int end_row = grid.uniform_rows > 0 ? first_row + grid.uniform_rows : args.cu_rows[b + 1];
  const int index = args.kv_lens[b] - (end_row - row);  // in the cache
  const int position = args.positions == nullptr ? index : args.positions[row];
  const RowPlace at{row, args.page_table[int64_t{b} * args.max_pages + index / kPageTokens],
                    index % kPageTokens, position < 0};
  Part angles;
  const int64_t angle = int64_t{max(position, 0)} * (C::kHeadDim / 2);
  const float4* cos = reinterpret_cast<const float4*>(args.cos + angle);
  const float4* sin = reinterpret_cast<const float4*>(args.sin + angle);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    reinterpret_cast<float4*>(angles.low)[i] = cos[2 * j + i];
    reinterpret_cast<float4*>(angles.high)[i] = sin[2 * j + i];
  }
  const bool short_values = C::kPlain || is_plain_but_norms(args);
  Divisor by{};
#pragma unroll 1
  for (int turn = first_turn; turn < end_turn; ++turn) {
    const RawHead<C> raw = next;
    if (turn + 1 < end_turn) next.load(source, min(head_of(turn + 1), total - 1), j);
    if constexpr (C::kFp8Cache) {
      const float scale = scales.of(args, min(head_of(turn), total - 1));
      if (__any_sync(kAllLanes, scale != by.scale)) {
        by = Divisor::of<C::kLanes>(scale, j, short_values);
      }
    }
    Part x;
    widen<C::kBf16>(raw.low, x.low);
    widen<C::kBf16>(raw.high, x.high);
    finish_head<C>(args, at, x, angles, by, min(head_of(turn), total - 1), j,
                   head_of(turn) < total);
  }
}

/// A page of one sequence that new tokens fall into.
struct Tile {
  int64_t first_row;  ///< row of the page's token 0, possibly negative
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

/// The `slot`-th page with new tokens; called by whole warps.
__device__ __forceinline__ Tile find_tile(const KvWriteArgs& args, int slot, int lane) {
  Tile tile{0, 0, 0};
  int before = 0;
  for (int base = 0; base < args.batch; base += 32) {
    const int b = min(base + lane, args.batch - 1);
    const int rows = args.cu_rows[b + 1] - args.cu_rows[b];
    const int end = args.kv_lens[b], past = end - rows;
    const int pages =
        rows > 0 && base + lane < args.batch ? (end - 1) / kPageTokens - past / kPageTokens + 1 : 0;
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
      const int owner_end = __shfl_sync(kAllLanes, end, owner);
      const int index =
          owner_past / kPageTokens + slot - before - __shfl_sync(kAllLanes, sum - pages, owner);
      const int sequence = base + owner;
      tile.page = args.page_table[int64_t{sequence} * args.max_pages + index];
      tile.first_row = int64_t{args.cu_rows[sequence]} + index * kPageTokens - owner_past;
      const int begin = max(owner_past - index * kPageTokens, 0);
      const int end = min(owner_end - index * kPageTokens, kPageTokens);
      tile.tokens = ~uint64_t{0} >> (kPageTokens - end + begin) << begin;
      if (args.positions != nullptr) tile.tokens &= not_padding(args, tile, lane);
      return tile;
    }
    before += __shfl_sync(kAllLanes, sum, 31);
  }
  return tile;
}

/// Token `i` (0..3) of the four that share one run of V's positions.
template <class C>
__device__ __forceinline__ int token_of(int quad, int i) {
  return C::kFp8Cache ? (quad & ~3) * 4 + v_group_token(4 * (quad & 3) + i, 1) : 4 * quad + i;
}

/// Rounds a tile of V and leaves it transposed in shared memory: [head and dim][64 tokens].
template <class C>
__device__ __forceinline__ void round_tile(const KvWriteArgs& args, const Tile& tile,
                                           int first_head, uint32_t* shared) {
  // Eight fours of tokens and four eights of dims a warp: no bank conflicts on the way in.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int octet = lane % 4 + 4 * (warp / 2), quad = lane / 4 + 8 * (warp % 2);
  const int head = first_head + 8 * octet / C::kHeadDim, dim = 8 * octet % C::kHeadDim;
  if (head >= args.num_kv_heads) return;
  const int heads = args.num_heads + 2 * args.num_kv_heads;
  const int64_t column = int64_t{args.num_heads + args.num_kv_heads + head} * C::kHeadDim + dim;
  const float scale = C::kFp8Cache ? args.v_scale[args.scale_per_head ? head : 0] : 1.0f;
  uint4 raw[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = token_of<C>(quad, i);
    raw[i] = make_uint4(0, 0, 0, 0);
    if ((tile.tokens >> token & 1) != 0) {
      raw[i] = __ldcs(
          reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(args.qkv) +
                                         (tile.first_row + token) * heads * C::kHeadDim + column));
    }
  }
  float x[4][8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    widen<C::kBf16>(raw[i], x[i]);
    if (args.v_offset != nullptr) {
#pragma unroll
      for (int d = 0; d < 8; ++d) {
        x[i][d] = __fsub_rn(x[i][d], args.v_offset[head * C::kHeadDim + dim + d]);
      }
    }
  }
  if constexpr (C::kFp8Cache) {
    const Divisor by = Divisor::of<16>(scale, lane % 16, args.v_offset == nullptr);
#pragma unroll
    for (int i = 0; i < 4; ++i) divide(x[i], by);
  }
  uint32_t* to = shared + 8 * octet * C::kTilePitch + quad * C::kTileWords;
#pragma unroll
  for (int d = 0; d < 8; ++d) {
    if constexpr (C::kFp8Cache) {
      to[d * C::kTilePitch] = ptx::floats_to_e4m3(x[0][d], x[1][d], x[2][d], x[3][d]);
    } else {
      *reinterpret_cast<uint2*>(to + d * C::kTilePitch) = make_uint2(
          ptx::floats_to_half_pair(x[0][d], x[1][d]), ptx::floats_to_half_pair(x[2][d], x[3][d]));
    }
  }
}

/// Stores 16 bytes of V's positions, of which those of old or future tokens must stay as they are.
template <class C>
__device__ __forceinline__ void place_positions(uint8_t* to, const uint4& value, int first_position,
                                                const Tile& tile) {
  constexpr int kPositions = 16 / C::kElemBytes;
  const int group = first_position & ~15;
  if ((~tile.tokens >> group & 0xffff) == 0) {
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

/// One block, the new tokens of one page of V of kTileHeads heads.
template <class C>
__device__ void write_tile(const KvWriteArgs& args, int slot, int first_head, uint32_t* shared) {
  const Tile tile = find_tile(args, slot, threadIdx.x % 32);
  if (tile.tokens == 0) return;
  round_tile<C>(args, tile, first_head, shared);
  __syncthreads();
  constexpr int kPieces = 4 * C::kElemBytes;  // 16-byte pieces of one dim's 64 tokens
  uint8_t* pool = static_cast<uint8_t*>(args.v_pool) +
                  layout_of(args, C::kElemBytes).head_offset(tile.page, first_head) * C::kElemBytes;
#pragma unroll
  for (int i = threadIdx.x; i < 128 * kPieces; i += kThreads) {
    if (first_head + i / (C::kHeadDim * kPieces) >= args.num_kv_heads) break;
    const int piece = i % kPieces, row = i / kPieces;  // heads follow each other in a page
    const uint32_t* from = shared + row * C::kTilePitch + 4 * piece;
    place_positions<C>(pool + row * (kPageTokens * C::kElemBytes) + 16 * piece,
                       make_uint4(from[0], from[1], from[2], from[3]), 16 / C::kElemBytes * piece,
                       tile);
  }
}

template <class C>
__global__ void __launch_bounds__(kThreads, C::kPlain ? 3 : 2)
    rope_quantize_write(const __grid_constant__ KvWriteArgs args,
                        const __grid_constant__ Grid grid) {
  __shared__ __align__(16) uint32_t shared[128 * C::kTilePitch];
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  if (static_cast<int>(blockIdx.x) < grid.row_blocks) {
    write_row<C>(args, grid, blockIdx.x * (kThreads / 32) + threadIdx.x / 32, threadIdx.x % 32);
  } else {
    const int head_blocks = (args.num_kv_heads + C::kTileHeads - 1) / C::kTileHeads;
    const int tile = blockIdx.x - grid.row_blocks, slot = tile / head_blocks;
    write_tile<C>(args, slot, (tile - slot * head_blocks) * C::kTileHeads, shared);
  }
}

}  // namespace kv8::kv_write
