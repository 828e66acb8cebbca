// The kernel's one parameter: PrefillArgs as the device wants it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/attention/prefill/common_params.h"

namespace kv8::sm90 {

/// Division of 0 .. 2^31 - 1 by a divisor known on the host: a multiplication and a shift.
struct FastDivisor {
  uint32_t divisor = 1;
  uint32_t multiplier = 0;
  uint32_t shift = 0;

  static FastDivisor of(uint32_t divisor) {
    FastDivisor result;
    result.divisor = divisor;
    while ((uint64_t{1} << result.shift) < divisor) ++result.shift;
    // ceil(2^(31 + shift) / divisor) fits in 32 bits and is exact enough for 31-bit dividends.
    result.multiplier =
        static_cast<uint32_t>(((uint64_t{1} << (31 + result.shift)) + divisor - 1) / divisor);
    return result;
  }
#ifdef __CUDACC__
  __host__ __device__
#endif
      int
      divide(int n) const {
    return static_cast<int>((static_cast<uint64_t>(n) * multiplier) >> (31 + shift));
  }
};

struct KernelParams : prefill::CommonParams {
  CUtensorMap q_map;  ///< {head_dim, heads, tokens}, box {row chunk, packed heads, tile tokens}
  CUtensorMap k_map;  ///< {head_dim, pages * kv_heads * 64}, box {row chunk, 64}
  CUtensorMap v_map;  ///< {64, pages * kv_heads * head_dim}, box {64, head_dim}
  uint32_t* scheduler;
  /// Query heads that share a tile: those of one KV head, or a divisor of them. Row r of a tile is
  /// head r % packed_heads of token r / packed_heads.
  FastDivisor packed_heads;
  FastDivisor head_groups;     ///< query heads / packed_heads
  FastDivisor groups_per_kv;   ///< head groups of one KV head
  FastDivisor tiles_per_rank;  ///< batch * head groups: tiles as far from the end of their sequence
  int tile_tokens;
  int q_bytes;  ///< what a tile's Q copies deliver
  int total_tiles;
};

}  // namespace kv8::sm90
