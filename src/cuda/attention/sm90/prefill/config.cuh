// Compile-time shape of one prefill kernel, and what follows from it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/attention/sm90/prefill/kernel_shape.h"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::sm90 {

inline constexpr int kPageRows = 64;   ///< tokens of a cache page
inline constexpr int kGroupRows = 64;  ///< query rows of one warpgroup: M of a wgmma

/// What one query tile's thread block is told by its producer, through shared memory.
struct TileInfo {
  int first_token;  ///< first token of the tile in the packed q and out
  int rows;         ///< rows of the tile that exist; 0 or less: an empty tile
  int diagonal;     ///< last key that the first token sees; negative where it sees none
  int kv_len;
  int key_tiles;  ///< key tiles to visit, last first; kNoMoreTiles ends the block
  int head;       ///< first of the tile's query heads
  int kv_head;
  float score_scale;  ///< stored q·k to the exponent of 2
  float out_scale;    ///< v_scale
};
inline constexpr int kNoMoreTiles = -1;

/// A TileInfo in shared memory. Its fields are read again where they are needed: registers are
/// scarce in the loop over keys.
struct TileView {
  uint32_t address;

#define KV8_TILE_FIELD(field) \
  __device__ int field() const { return ptx::load_shared(address + offsetof(TileInfo, field)); }
  KV8_TILE_FIELD(first_token)
  KV8_TILE_FIELD(rows)
  KV8_TILE_FIELD(diagonal)
  KV8_TILE_FIELD(kv_len)
  KV8_TILE_FIELD(key_tiles)
  KV8_TILE_FIELD(head)
  KV8_TILE_FIELD(kv_head)
#undef KV8_TILE_FIELD
  __device__ float score_scale() const {
    return __int_as_float(ptx::load_shared(address + offsetof(TileInfo, score_scale)));
  }
  __device__ float out_scale() const {
    return __int_as_float(ptx::load_shared(address + offsetof(TileInfo, out_scale)));
  }
};

/// `kRowGroups` warpgroups side by side own 64 query rows each; every one of them exists
/// `kKeyGroups` times, and those copies take every kKeyGroups-th key tile and merge at the end.
/// `kCodeEighths` eighths of the exponentials are computed as E4M3 codes on the FMA pipe (FP16
/// scores only); the rest use the special-function unit.
template <KvType kKv_, int kHeadDim_, ScoreType kScore_, int kRowGroups_, int kKeyGroups_,
          int kKeys_, int kStages_, int kBlocksPerSm_, int kCodeEighths_, Loop kLoop_>
struct PrefillConfig {
  static constexpr KvType kKv = kKv_;
  static constexpr ScoreType kScore = kScore_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kRowGroups = kRowGroups_;
  static constexpr int kKeyGroups = kKeyGroups_;
  static constexpr int kKeys = kKeys_;  ///< keys of one tile
  static constexpr int kStages = kStages_;
  /// Two blocks an SM leave no room for a second Q tile, nor do 192 rows of FP16.
  static constexpr int kQStages =
      kBlocksPerSm_ == 2 || (kKv_ == KvType::kF16 && kHeadDim_ == 128 && kRowGroups_ > 2) ? 1 : 2;
  static constexpr int kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kCodeEighths = kCodeEighths_;
  static constexpr Loop kLoop = kLoop_;

  static constexpr bool kFp8 = kKv == KvType::kE4m3;
  static constexpr bool kHalfScores = kScore == ScoreType::kF16;
  static constexpr int kElemBytes = kFp8 ? 1 : 2;
  static constexpr int kConsumers = kRowGroups * kKeyGroups;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kRows = kGroupRows * kRowGroups;
  static constexpr int kPages = kKeys / kPageRows;

  // FP8 sums rows of P on the tensor core: eight rows of ones under V^T. The FP8 accumulator keeps
  // 14 bits and truncates, so each tile starts from zero and is folded into FP32 (`kFold`).
  static constexpr int kOnesRows = kFp8 ? 8 : 0;
  static constexpr bool kFold = kFp8;
  static constexpr int kOutColumns = kHeadDim + kOnesRows;

  // Shared-memory tiles. Rows are cut into chunks of at most 128 bytes, the widest swizzle.
  static constexpr int kChunkBytes = kHeadDim * kElemBytes < 128 ? kHeadDim * kElemBytes : 128;
  static constexpr int kChunks = kHeadDim * kElemBytes / kChunkBytes;
  static constexpr int kVRowBytes = kPageRows * kElemBytes;
  static constexpr int kVPageBytes = kOutColumns * kVRowBytes;
  static constexpr int kQBytes = kRows * kHeadDim * kElemBytes;
  static constexpr int kKBytes = kKeys * kHeadDim * kElemBytes;
  static constexpr int kVBytes = (kPages * kVPageBytes + 1023) / 1024 * 1024;
  static constexpr int kMergeFloats = kKeyGroups > 1 ? (kHeadDim / 2 + 4) * 128 : 0;
  static constexpr int kMergeBytes = 4 * kMergeFloats * (kKeyGroups - 1) * kRowGroups;

  static constexpr int kKOffset = kQStages * kQBytes;
  static constexpr int kVOffset = kKOffset + kStages * kKBytes;
  static constexpr int kMergeOffset = kVOffset + kStages * kVBytes;
  static constexpr int kInfoOffset = kMergeOffset + kMergeBytes;
  static constexpr int kBarrierOffset = kInfoOffset + kQStages * 64;
  static constexpr int kBarriers = 2 * kQStages + 5 * kStages;
  static constexpr int kSmemBytes = kBarrierOffset + 8 * kBarriers;

  // Registers a thread after setmaxnreg. The sum over the block may not exceed what it was launched
  // with, 65536 / kBlocksPerSm rounded down to eight a thread; more would wait forever.
  static constexpr int kConsumerRegisters =
      kBlocksPerSm == 2 ? 208 : (kConsumers <= 2 ? 232 : (kConsumers == 3 ? 160 : 112));
  static constexpr int kProducerRegisters = kConsumers <= 2 ? 40 : 32;
  static constexpr bool kRoomForTwoFolds = kConsumerRegisters > 160;

  static_assert(kHeadDim == 64 || kHeadDim == 128);
  static_assert(kKeys % kPageRows == 0);
  // A stage always belongs to the same key group, which therefore sees each of its phases.
  static_assert(kStages % kKeyGroups == 0);
  static_assert(kBlocksPerSm == 1 || kConsumers == 1);
  static_assert(kFp8 || !kHalfScores);
  static_assert(kBlocksPerSm * (kSmemBytes + 1024) <= 228 * 1024);  // 1024 a block: the system's
};

/// Addresses of everything in a block's shared memory.
template <class C>
struct SharedMemory {
  uint32_t address;  ///< in the shared window, 1024-byte aligned

  __device__ static uint8_t* generic(uint32_t shared_address) {
    return static_cast<uint8_t*>(__cvta_shared_to_generic(shared_address));
  }

  __device__ uint32_t q(int slot) const { return address + slot * C::kQBytes; }
  __device__ uint32_t k(int stage) const { return address + C::kKOffset + stage * C::kKBytes; }
  __device__ uint32_t v(int stage) const { return address + C::kVOffset + stage * C::kVBytes; }
  __device__ float* merge(int index) const {
    return reinterpret_cast<float*>(generic(address + C::kMergeOffset)) + index * C::kMergeFloats;
  }
  __device__ uint32_t info(int slot) const { return address + C::kInfoOffset + slot * 64; }

  __device__ uint32_t barrier(int index) const { return address + C::kBarrierOffset + 8 * index; }
  __device__ uint32_t q_full(int slot) const { return barrier(slot); }
  __device__ uint32_t q_empty(int slot) const { return barrier(C::kQStages + slot); }
  __device__ uint32_t k_full(int s) const { return barrier(2 * C::kQStages + s); }
  __device__ uint32_t k_empty(int s) const { return barrier(2 * C::kQStages + C::kStages + s); }
  __device__ uint32_t v_full(int s) const { return barrier(2 * C::kQStages + 2 * C::kStages + s); }
  __device__ uint32_t v_empty(int s) const { return barrier(2 * C::kQStages + 3 * C::kStages + s); }
  /// Counts the copies of a V tile that the tail warp has yet to clear behind the last token. One a
  /// stage: the next query tile's tail may be asked for before this one's has come.
  __device__ uint32_t v_tail(int s) const { return barrier(2 * C::kQStages + 4 * C::kStages + s); }
};

/// Position in a ring of `kLength` slots, counted over the whole life of the block. One register.
template <int kLength>
struct RingCursor {
  uint32_t state = 0;  ///< slot in the upper bits, parity of the round in bit 0

  __device__ int slot() const { return state >> 1; }
  __device__ uint32_t parity() const { return state & 1; }
  __device__ void advance() {
    state += 2;
    if (state >= 2 * kLength) state = (state & 1) ^ 1;
  }
  __device__ void advance_by(int steps) {
    for (int i = 0; i < steps; ++i) advance();
  }
};
template <class C>
using StageCursor = RingCursor<C::kStages>;
template <class C>
using QCursor = RingCursor<C::kQStages>;

}  // namespace kv8::sm90
