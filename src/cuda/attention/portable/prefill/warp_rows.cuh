// One warp's 32 query rows against half a page of keys: scores, online softmax, weighted values.
//
// The contraction order of Q·K^T is free, so a lane takes 8 or 16 contiguous bytes of a key. The
// order of keys is free as well: they are dealt to score columns such that a lane ends with the
// eight tokens that its contiguous load of a V row holds.
#pragma once

#include "cuda/attention/portable/prefill/config.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/mma.cuh"

namespace kv8::portable {

/// Stands for minus infinity where differences must stay numbers.
inline constexpr float kNoPeak = -1e30f;
/// Probabilities carry this power of two, which keeps small ones out of E4M3's and FP16's
/// subnormals; 2^8 is below E4M3's largest value, 448.
inline constexpr float kPShift = 8.0f;

/// Lane 4g + q owns rows g, g + 8 (of row tile 0), g + 16, g + 24 (of row tile 1) together with the
/// other lanes of its four. Row `r` of four below is row 8r + g.
template <class C>
struct RowState {
  float out[2][C::kHeadDim / 8][4];
  float sum[4];   ///< of the probabilities as they were rounded
  float peak[4];  ///< running maximum of the scaled scores, in powers of two

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (auto& tile : out[m]) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      sum[r] = 0.0f;
      peak[r] = kNoPeak;
    }
  }
};

template <class C>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  if constexpr (C::kE4m3) {
    ptx::mma_e4m3(d, a[0], a[1], a[2], a[3], b[0], b[1]);
  } else {
    ptx::mma_half(d, a[0], a[1], a[2], a[3], b[0], b[1]);
  }
}

/// The half's token that score column 2q + e of tile `t` stands for. With FP8, lane q's eight bytes
/// of V are tokens 2i, 2i + 1, 2i + 8, 2i + 9 for two i of a group of 16 (ops/kv_layout.h).
template <class C>
__device__ __forceinline__ int token_of(int q, int t, int e) {
  return C::kFp8 ? 16 * (q >> 1) + 4 * (q & 1) + 2 * (t >> 1) + 8 * (t & 1) + e : 8 * q + 2 * t + e;
}

/// Offset of byte `at` of a row. Rows exchange pieces of 32 or 64 bytes, so that the lanes that a
/// shared-memory access serves at once (eight with 16 bytes each, sixteen with 8) meet different
/// banks.
template <class C>
__device__ __forceinline__ int k_offset(int row, int at) {
  const int halves = C::kKRowBytes >= 128 ? (row & 1) * 64 : 0;
  const int quarters = C::kKLoadBytes == 8 ? (row & 4) * 8 : 0;
  return row * C::kKRowBytes + (at ^ halves ^ quarters);
}
template <class C>
__device__ __forceinline__ int v_offset(int row, int at) {
  return row * C::kVRowBytes + (at ^ (C::kFp8 ? (row & 2) * 16 : (row & 1) * 64));
}

template <class C>
using ScoreTiles = float[2][C::kScoreTiles][4];

/// Scores of both row tiles; `k_rows` are the half's keys, `q_rows` the warp's fragments of Q.
template <class C>
__device__ __forceinline__ void score_keys(uint32_t k_rows, uint32_t q_rows, int lane,
                                           ScoreTiles<C>& s) {
  const int g = lane / 4, q = lane % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (auto& tile : s[m]) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
  }
#pragma unroll
  for (int load = 0; load < C::kKLoads; ++load) {
    uint32_t a[C::kStepsPerLoad][2][4];
#pragma unroll
    for (int i = 0; i < C::kStepsPerLoad; ++i) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int step = load * C::kStepsPerLoad + i;
        ptx::load_shared(q_rows + (m * C::kQSteps + step) * 512 + 16 * lane, a[i][m]);
      }
    }
    const uint32_t base =
        k_rows + k_offset<C>(token_of<C>(g >> 1, 0, g & 1), C::kKLoadBytes * (4 * load + q));
#pragma unroll
    for (int t = 0; t < C::kScoreTiles; ++t) {
      // Bits of the row that other tiles change do not count for k_offset.
      uint32_t words[C::kKLoadBytes / 4];
      ptx::load_shared(base + token_of<C>(0, t, 0) * C::kKRowBytes, words);
#pragma unroll
      for (int i = 0; i < C::kStepsPerLoad; ++i) {
        uint32_t b[2];
        if constexpr (C::kWidened) {
          const uint2 pairs = ptx::e4m3_to_half_pairs(words[i]);
          b[0] = pairs.x;
          b[1] = pairs.y;
        } else {
          b[0] = words[2 * i];
          b[1] = words[2 * i + 1];
        }
        multiply<C>(s[0][t], a[i][0], b);
        multiply<C>(s[1][t], a[i][1], b);
      }
    }
  }
}

/// Scores become probabilities times 2^kPShift, or up to kPeakSlack powers of two more. `keys`:
/// keys of the half that row g sees; row g + n sees n more.
template <class C, bool kMasked>
__device__ __forceinline__ void soften(RowState<C>& rows, ScoreTiles<C>& s, float scale, int keys,
                                       int q) {
  float next[4];
  bool moved = false;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float peak = -INFINITY;
#pragma unroll
    for (int t = 0; t < C::kScoreTiles; ++t) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = s[r / 2][t][2 * (r % 2) + e];
        if (kMasked && token_of<C>(q, t, e) >= keys + 8 * r) score = -INFINITY;
        peak = fmaxf(peak, score);
      }
    }
    peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
    peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2));
    next[r] = fmaxf(rows.peak[r], peak * scale);
    moved |= next[r] > rows.peak[r] + C::kPeakSlack;
  }
  if (__any_sync(0xffffffffu, moved)) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float shrink = ptx::exp2_approx(rows.peak[r] - next[r]);
      rows.peak[r] = next[r];
      rows.sum[r] *= shrink;
#pragma unroll
      for (auto& tile : rows.out[r / 2]) {
        tile[2 * (r % 2)] *= shrink;
        tile[2 * (r % 2) + 1] *= shrink;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const float shift = kPShift - rows.peak[r];
#pragma unroll
    for (int t = 0; t < C::kScoreTiles; ++t) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = s[r / 2][t][2 * (r % 2) + e];
        score = ptx::exp2_approx(fmaf(score, scale, shift));
      }
    }
  }
}

/// Probabilities of a row tile as the left operand of P·V.
template <class C>
__device__ __forceinline__ void pack_probabilities(const float (&p)[C::kScoreTiles][4],
                                                   uint32_t (&a)[C::kPSteps][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = 2 * r;
    if constexpr (C::kE4m3) {
      a[0][r] = ptx::floats_to_e4m3(p[0][i], p[0][i + 1], p[1][i], p[1][i + 1]);
      a[0][2 + r] = ptx::floats_to_e4m3(p[2][i], p[2][i + 1], p[3][i], p[3][i + 1]);
    } else {
#pragma unroll
      for (int step = 0; step < C::kPSteps; ++step) {
        a[step][r] = ptx::floats_to_half_pair(p[2 * step][i], p[2 * step][i + 1]);
        a[step][2 + r] = ptx::floats_to_half_pair(p[2 * step + 1][i], p[2 * step + 1][i + 1]);
      }
    }
  }
}

/// Adds the half's products. Accumulators of E4M3 products may keep few bits, so each half's sum
/// starts at zero and is added in FP32.
template <class C>
__device__ __forceinline__ void accumulate(float (&d)[4], const uint32_t (&a)[C::kPSteps][4],
                                           const uint32_t (&b)[C::kPSteps][2]) {
  if constexpr (C::kE4m3) {
    float half[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    multiply<C>(half, a[0], b[0]);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += half[i];
  } else {
#pragma unroll
    for (int step = 0; step < C::kPSteps; ++step) multiply<C>(d, a[step], b[step]);
  }
}

/// Masks of the words of a lane's eight tokens of V of which those below `kept` (tokens of the
/// half) exist.
template <class C>
__device__ __forceinline__ void tail_masks(int kept, int q, uint32_t (&masks)[C::kVLoadBytes / 4]) {
#pragma unroll
  for (int w = 0; w < C::kVLoadBytes / 4; ++w) {
    masks[w] = 0;
#pragma unroll
    for (int i = 0; i < 4 / C::kElemBytes; ++i) {
      const int tile = C::kFp8 ? 2 * w + i / 2 : w;
      const uint32_t ones = C::kFp8 ? 0xffu << 8 * i : 0xffffu << 16 * i;
      if (token_of<C>(q, tile, i % 2) < kept) masks[w] |= ones;
    }
  }
}

/// Adds P·V and the row sums of P as it was rounded. Behind the last token V may hold NaN, which 0
/// times does not remove: `kTail` clears what lies behind the half's first `kept` tokens.
template <class C, bool kTail>
__device__ __forceinline__ void weigh_values(RowState<C>& rows, uint32_t v_rows,
                                             const ScoreTiles<C>& p, int kept, int q) {
  uint32_t masks[C::kVLoadBytes / 4];
  if constexpr (kTail) tail_masks<C>(kept, q, masks);
  uint32_t a[2][C::kPSteps][4];
  uint32_t ones[C::kPSteps][2];
#pragma unroll
  for (auto& b : ones) b[0] = b[1] = C::kE4m3 ? 0x38383838u : 0x3c003c00u;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    pack_probabilities<C>(p[m], a[m]);
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // of rows g, g, g + 8, g + 8
    accumulate<C>(sums, a[m], ones);
    rows.sum[2 * m] += sums[0];
    rows.sum[2 * m + 1] += sums[2];
  }
#pragma unroll
  for (int tile = 0; tile < C::kHeadDim / 8; ++tile) {
    uint32_t words[C::kVLoadBytes / 4];
    ptx::load_shared(v_rows + tile * (8 * C::kVRowBytes), words);
    if constexpr (kTail) {
#pragma unroll
      for (int w = 0; w < C::kVLoadBytes / 4; ++w) words[w] &= masks[w];
    }
    uint32_t b[C::kPSteps][2];
#pragma unroll
    for (int step = 0; step < C::kPSteps; ++step) {
      if constexpr (C::kWidened) {
        const uint2 pairs = ptx::e4m3_to_half_pairs(words[step]);
        b[step][0] = pairs.x;
        b[step][1] = pairs.y;
      } else {
        b[step][0] = words[2 * step];
        b[step][1] = words[2 * step + 1];
      }
    }
    accumulate<C>(rows.out[0][tile], a[0], b);
    accumulate<C>(rows.out[1][tile], a[1], b);
  }
}

}  // namespace kv8::portable
