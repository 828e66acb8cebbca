// One warp, one page of one KV head: scores, online softmax, weighted values.
//
// Q·K^T and P·V are FP16 products: FP8 codes become FP16 exactly, Q loses nothing, and P keeps 11
// bits. The contraction order of Q·K^T is free, so each lane takes 16 contiguous bytes of a key;
// the order of keys is free as well, so they are dealt to the columns such that a lane ends with
// the 16 tokens of permuted group q, the ones that its 16-byte load of a V row holds.
#pragma once

#include "cuda/attention/decode/kernel_params.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/mma.cuh"

namespace kv8::decode {

/// Stands for minus infinity where differences must stay numbers.
inline constexpr float kNoPeak = -1e30f;
/// Probabilities carry this power of two, which keeps small ones out of FP16's subnormals.
inline constexpr float kPShift = 8.0f;

/// Lane 4g + q owns rows g and g + 8 together with the other lanes of its four.
template <class C>
struct RowState {
  float out[C::kHeadDim / 8][4];
  float peak[2];  ///< running maximum of the scaled scores, in powers of two
  float sum[2];   ///< of this lane's own columns

  __device__ void reset() {
#pragma unroll
    for (auto& tile : out) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
    peak[0] = peak[1] = kNoPeak;
    sum[0] = sum[1] = 0.0f;
  }
};

/// Token within the page of this lane's column pair `e` of score tile `t`.
__device__ __forceinline__ int token_of(int q, int t, int e) {
  return 16 * q + (t & 1) * 8 + (t >> 1) * 2 + e;
}

template <class C>
__device__ __forceinline__ void score_page(uint32_t k_page, const uint32_t (&q_rows)[C::kKSteps][4],
                                           int g, int q, float (&s)[8][4]) {
  constexpr int kStepsPerLoad = C::kFp8 ? 4 : 2;
  const uint32_t base = k_page + (16 * (g >> 1) + (g & 1)) * (C::kHeadDim * C::kElemBytes) + 16 * q;
#pragma unroll
  for (auto& tile : s) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
#pragma unroll
  for (int load = 0; load < C::kKLoads; ++load) {
#pragma unroll
    for (int t = 0; t < 8; ++t) {
      const int row = (t & 1) * 8 + (t >> 1) * 2;
      const uint4 key = ptx::load_shared_16(base + row * (C::kHeadDim * C::kElemBytes) + 64 * load);
      const uint32_t words[4] = {key.x, key.y, key.z, key.w};
#pragma unroll
      for (int i = 0; i < kStepsPerLoad; ++i) {
        const uint32_t(&a)[4] = q_rows[load * kStepsPerLoad + i];
        if constexpr (C::kFp8) {
          ptx::mma_half(s[t], a[0], a[1], a[2], a[3], ptx::e4m3_to_half_pair(words[i] & 0xffff),
                        ptx::e4m3_to_half_pair(words[i] >> 16));
        } else {
          ptx::mma_half(s[t], a[0], a[1], a[2], a[3], words[2 * i], words[2 * i + 1]);
        }
      }
    }
  }
}

/// Scores become probabilities; `limits`: keys of the page that each of the two rows sees.
template <class C>
__device__ __forceinline__ void soften(RowState<C>& rows, float (&s)[8][4], float scale,
                                       bool masked, const int (&limits)[2], int q) {
  constexpr int kHalves = C::kRows / 8;
  float next[kHalves];
  bool moved = false;
#pragma unroll
  for (int r = 0; r < kHalves; ++r) {
    float peak = -INFINITY;
#pragma unroll
    for (int t = 0; t < 8; ++t) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = s[t][2 * r + e];
        if (masked && token_of(q, t, e) >= limits[r]) score = -INFINITY;
        peak = fmaxf(peak, score);
      }
    }
    peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
    peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2));
    next[r] = fmaxf(rows.peak[r], peak * scale);
    moved |= next[r] != rows.peak[r];
  }
  if (__any_sync(0xffffffffu, moved)) {
#pragma unroll
    for (int r = 0; r < kHalves; ++r) {
      const float shrink = ptx::exp2_approx(rows.peak[r] - next[r]);
      rows.peak[r] = next[r];
      rows.sum[r] *= shrink;
#pragma unroll
      for (auto& tile : rows.out) {
        tile[2 * r] *= shrink;
        tile[2 * r + 1] *= shrink;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kHalves; ++r) {
#pragma unroll
    for (int t = 0; t < 8; ++t) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = s[t][2 * r + e];
        score = ptx::exp2_approx(fmaf(score, scale, kPShift - rows.peak[r]));
        rows.sum[r] += score;
      }
    }
  }
}

/// Byte masks of a lane's 16 tokens (four words of FP8, eight of FP16) of which `kept` exist.
template <class C>
__device__ __forceinline__ void tail_masks(int kept, uint32_t (&masks)[4 * C::kElemBytes]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (C::kFp8) {  // tokens 2w, 2w + 1, 2w + 8, 2w + 9
      masks[w] = (2 * w < kept ? 0xffu : 0) | (2 * w + 1 < kept ? 0xff00u : 0) |
                 (2 * w + 8 < kept ? 0xff0000u : 0) | (2 * w + 9 < kept ? 0xff000000u : 0);
    } else {
      masks[w] = (2 * w < kept ? 0xffffu : 0) | (2 * w + 1 < kept ? 0xffff0000u : 0);
      masks[4 + w] = (2 * w + 8 < kept ? 0xffffu : 0) | (2 * w + 9 < kept ? 0xffff0000u : 0);
    }
  }
}

/// Adds P·V. Behind the last token V may hold NaN, which 0 times does not remove: `kTail` clears
/// it.
template <class C, bool kTail>
__device__ __forceinline__ void weigh_values(RowState<C>& rows, uint32_t v_page,
                                             const float (&p)[8][4], int kept, int g, int q) {
  uint32_t masks[4 * C::kElemBytes];
  if constexpr (kTail) tail_masks<C>(kept, masks);
  uint32_t a[4][4];
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    a[step][0] = ptx::floats_to_half_pair(p[2 * step][0], p[2 * step][1]);
    a[step][2] = ptx::floats_to_half_pair(p[2 * step + 1][0], p[2 * step + 1][1]);
    a[step][1] = C::kRows == 8 ? 0 : ptx::floats_to_half_pair(p[2 * step][2], p[2 * step][3]);
    a[step][3] =
        C::kRows == 8 ? 0 : ptx::floats_to_half_pair(p[2 * step + 1][2], p[2 * step + 1][3]);
  }
  const uint32_t base = v_page + g * (64 * C::kElemBytes) + q * (16 * C::kElemBytes);
#pragma unroll
  for (int tile = 0; tile < C::kHeadDim / 8; ++tile) {
    uint32_t words[4 * C::kElemBytes];
#pragma unroll
    for (int i = 0; i < C::kElemBytes; ++i) {
      const uint4 value = ptx::load_shared_16(base + tile * (8 * 64 * C::kElemBytes) + 16 * i);
      words[4 * i] = value.x, words[4 * i + 1] = value.y;
      words[4 * i + 2] = value.z, words[4 * i + 3] = value.w;
    }
    if constexpr (kTail) {
#pragma unroll
      for (int i = 0; i < 4 * C::kElemBytes; ++i) words[i] &= masks[i];
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t b0, b1;
      if constexpr (C::kFp8) {
        b0 = ptx::e4m3_to_half_pair(words[step] & 0xffff);
        b1 = ptx::e4m3_to_half_pair(words[step] >> 16);
      } else {
        b0 = words[step];
        b1 = words[4 + step];
      }
      ptx::mma_half(rows.out[tile], a[step][0], a[step][1], a[step][2], a[step][3], b0, b1);
    }
  }
}

}  // namespace kv8::decode
