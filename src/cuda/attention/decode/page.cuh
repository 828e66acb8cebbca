// One warp, one piece (a page or half of one) of one KV head: scores, online softmax, weighted
// values.
//
// Keys and dims are the long side of the products and query rows the short one: S^T = K·Q^T and
// O^T = V^T·P^T, so that eight query rows fill an instruction. Both are FP16 products: FP8 codes
// become FP16 exactly, Q loses nothing, and P keeps 11 bits instead of 4. The contraction order of
// Q·K^T is free, so a lane takes 16 contiguous bytes of a key; the order of keys is free as well,
// so they are dealt to rows such that P^T, transposed 8 by 8, leaves each lane with the tokens that
// its contiguous load of a V row holds.
#pragma once

#include "cuda/attention/decode/schedule.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/mma.cuh"

namespace kv8::decode {

/// Stands for minus infinity where differences must stay numbers.
inline constexpr float kNoPeak = -1e30f;
/// Probabilities carry this power of two, which keeps small ones out of FP16's subnormals.
inline constexpr float kPShift = 8.0f;

/// Scores of a piece, then probabilities: [step of 16 keys][8 query rows][4]. Lane 4g + q holds
/// keys key_of(g / 2, step, i / 2, g % 2) and query rows 2q + i % 2 of each eight.
template <class C>
using Scores = float[C::kKeySteps][C::kRowTiles][4];

/// Probabilities as the second operand of V^T·P^T.
template <class C>
using Weights = uint32_t[C::kKeySteps][C::kRowTiles][2];

/// Lane 4g + q owns query rows 2q and 2q + 1 of each eight, together with the other lanes of its q.
template <class C>
struct RowState {
  float out[C::kHeadDim / 16][C::kRowTiles][4];  ///< dims g, g, g + 8, g + 8 of each 16
  float peak[C::kRowTiles][2];  ///< running maximum of the scaled scores, in powers of two
  float sum[C::kRowTiles][2];   ///< of this lane's own keys

  __device__ void reset() {
#pragma unroll
    for (auto& tile : out) {
#pragma unroll
      for (auto& rows : tile) rows[0] = rows[1] = rows[2] = rows[3] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < C::kRowTiles; ++n) {
      peak[n][0] = peak[n][1] = kNoPeak;
      sum[n][0] = sum[n][1] = 0.0f;
    }
  }

  /// From a lane's own keys to all that the warp has seen. Whole warps, once, after the last keys.
  __device__ void complete_sums() {
#pragma unroll
    for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int d = 4; d < 32; d *= 2) sum[n][c] += __shfl_xor_sync(kAllLanes, sum[n][c], d);
      }
    }
  }
};

/// Token within the piece of element `e` of pair `half` of the step-th four tokens that lane q
/// holds of a V row: see ops/kv_layout.h for the order within 16 one-byte elements.
template <class C>
__device__ constexpr int key_of(int q, int step, int half, int e) {
  const int position = q * C::kLaneKeys + 4 * step;
  return C::kFp8 ? (position & ~15) + (position & 15) / 2 + 8 * half + e : position + 2 * half + e;
}

/// `k_piece`: shared address of the piece's first key.
template <class C>
__device__ __forceinline__ void score_piece(uint32_t k_piece,
                                            const uint32_t (&rows)[C::kKSteps][C::kRowTiles][2],
                                            int g, int q, Scores<C>& s) {
  constexpr int kStepsPerLoad = C::kFp8 ? 4 : 2;
  constexpr int kKeyBytes = C::kHeadDim * C::kElemBytes;
  const uint32_t base = k_piece + key_of<C>(g >> 1, 0, 0, g & 1) * kKeyBytes + 16 * q;
#pragma unroll
  for (auto& step : s) {
#pragma unroll
    for (auto& tile : step) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
  }
#pragma unroll
  for (int load = 0; load < C::kKLoads; ++load) {
#pragma unroll
    for (int step = 0; step < C::kKeySteps; ++step) {
      uint32_t words[2][4];  // of key g and key g + 8 of the step
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 key =
            ptx::load_shared_16(base + key_of<C>(0, step, half, 0) * kKeyBytes + 64 * load);
        words[half][0] = key.x, words[half][1] = key.y;
        words[half][2] = key.z, words[half][3] = key.w;
      }
#pragma unroll
      for (int i = 0; i < kStepsPerLoad; ++i) {
        uint32_t a[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (C::kFp8) {
            const uint2 pairs = ptx::e4m3_to_half_pairs(words[half][i]);
            a[half] = pairs.x;
            a[2 + half] = pairs.y;
          } else {
            a[half] = words[half][2 * i];
            a[2 + half] = words[half][2 * i + 1];
          }
        }
#pragma unroll
        for (int n = 0; n < C::kRowTiles; ++n) {
          const uint32_t(&b)[2] = rows[load * kStepsPerLoad + i][n];
          ptx::mma_half(s[step][n], a[0], a[1], a[2], a[3], b[0], b[1]);
        }
      }
    }
  }
}

/// Removes the scores of keys that a row does not see. `visible`: a bit for each key of the piece.
template <class C>
__device__ __forceinline__ void hide_scores(Scores<C>& s,
                                            const typename C::KeyBits (&visible)[C::kRowTiles][2],
                                            int g) {
#pragma unroll
  for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const typename C::KeyBits own = visible[n][c] >> key_of<C>(g >> 1, 0, 0, g & 1);
#pragma unroll
      for (int step = 0; step < C::kKeySteps; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if ((own >> key_of<C>(0, step, half, 0) & 1) == 0) s[step][n][2 * half + c] = -INFINITY;
        }
      }
    }
  }
}

/// Scores become probabilities.
template <class C>
__device__ __forceinline__ void soften(RowState<C>& rows, Scores<C>& s, float scale) {
  float next[C::kRowTiles][2];
  bool moved = false;
#pragma unroll
  for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float peak = -INFINITY;
#pragma unroll
      for (int step = 0; step < C::kKeySteps; ++step) {
        peak = fmaxf(peak, fmaxf(s[step][n][c], s[step][n][2 + c]));
      }
#pragma unroll
      for (int d = 4; d < 32; d *= 2) peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, d));
      next[n][c] = fmaxf(rows.peak[n][c], peak * scale);
      moved |= next[n][c] != rows.peak[n][c];
    }
  }
  if (__any_sync(kAllLanes, moved)) {
#pragma unroll
    for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float shrink = ptx::exp2_approx(rows.peak[n][c] - next[n][c]);
        rows.peak[n][c] = next[n][c];
        rows.sum[n][c] *= shrink;
#pragma unroll
        for (auto& tile : rows.out) {
          tile[n][c] *= shrink;
          tile[n][2 + c] *= shrink;
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int step = 0; step < C::kKeySteps; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& score = s[step][n][2 * half + c];
          score = ptx::exp2_approx(fmaf(score, scale, kPShift - rows.peak[n][c]));
          rows.sum[n][c] += score;
        }
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void transpose_weights(Weights<C>& weights, const Scores<C>& p) {
#pragma unroll
  for (int step = 0; step < C::kKeySteps; ++step) {
#pragma unroll
    for (int n = 0; n < C::kRowTiles; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weights[step][n][half] = ptx::transpose_pairs(
            ptx::floats_to_half_pair(p[step][n][2 * half], p[step][n][2 * half + 1]));
      }
    }
  }
}

/// Masks of the words that a lane holds of a V row; `seen`: a bit for each key of the piece.
template <class C>
__device__ __forceinline__ void value_masks(typename C::KeyBits seen, int q,
                                            uint32_t (&masks)[C::kLaneKeys * C::kElemBytes / 4]) {
  constexpr uint32_t kOnes = C::kFp8 ? 0xffu : 0xffffu;
  constexpr int kBits = 8 * C::kElemBytes;
  const typename C::KeyBits own = seen >> key_of<C>(q, 0, 0, 0);
#pragma unroll
  for (auto& mask : masks) mask = 0;
#pragma unroll
  for (int step = 0; step < C::kKeySteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int bit = (4 * step + i) * kBits;
      if ((own >> key_of<C>(0, step, i / 2, i % 2) & 1) != 0) masks[bit / 32] |= kOnes << bit % 32;
    }
  }
}

/// A lane's contiguous tokens of one row of V.
template <class C>
__device__ __forceinline__ void load_values(uint32_t address,
                                            uint32_t (&words)[C::kLaneKeys * C::kElemBytes / 4]) {
  constexpr int kBytes = C::kLaneKeys * C::kElemBytes;
  if constexpr (kBytes == 8) {
    const uint2 value = ptx::load_shared_8(address);
    words[0] = value.x, words[1] = value.y;
  } else {
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) {
      const uint4 value = ptx::load_shared_16(address + 16 * i);
      words[4 * i] = value.x, words[4 * i + 1] = value.y;
      words[4 * i + 2] = value.z, words[4 * i + 3] = value.w;
    }
  }
}

/// Adds V^T·P^T. Where no row sees a token V may hold NaN, which 0 times does not remove: `kMasked`
/// clears it. `v_piece`: shared address of the piece's first token of V's first row.
template <class C, bool kMasked>
__device__ __forceinline__ void weigh_values(RowState<C>& rows, uint32_t v_piece,
                                             const Weights<C>& b, typename C::KeyBits seen, int g,
                                             int q) {
  constexpr int kWords = C::kLaneKeys * C::kElemBytes / 4;
  uint32_t masks[kWords];
  if constexpr (kMasked) value_masks<C>(seen, q, masks);
  constexpr int kRowBytes = 64 * C::kElemBytes;
  const uint32_t base = v_piece + g * kRowBytes + q * C::kLaneKeys * C::kElemBytes;
#pragma unroll
  for (int tile = 0; tile < C::kHeadDim / 16; ++tile) {
    uint32_t words[2][kWords];  // of dim g and dim g + 8 of the tile
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      load_values<C>(base + (16 * tile + 8 * half) * kRowBytes, words[half]);
      if constexpr (kMasked) {
#pragma unroll
        for (int i = 0; i < kWords; ++i) words[half][i] &= masks[i];
      }
    }
#pragma unroll
    for (int step = 0; step < C::kKeySteps; ++step) {
      uint32_t a[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (C::kFp8) {
          const uint2 pairs = ptx::e4m3_to_half_pairs(words[half][step]);
          a[half] = pairs.x;
          a[2 + half] = pairs.y;
        } else {
          a[half] = words[half][2 * step];
          a[2 + half] = words[half][2 * step + 1];
        }
      }
#pragma unroll
      for (int n = 0; n < C::kRowTiles; ++n) {
        ptx::mma_half(rows.out[tile][n], a[0], a[1], a[2], a[3], b[step][n][0], b[step][n][1]);
      }
    }
  }
}

}  // namespace kv8::decode
