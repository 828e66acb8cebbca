// Online softmax over one warpgroup's scores, kept in the registers of the wgmma accumulator.
//
// A thread (g = lane / 4, q = lane % 4 of its warp) holds rows g and g + 8 and, of every 8 columns,
// 2q and 2q + 1. FP32 scores: s[4j + 2r + i] is row r, column 8j + 2q + i. FP16 scores: s[2j + r]
// holds both columns. Probabilities carry the factor 2^(score * scale - offset[r]); the offset is
// the running row maximum less `kPeakLog2`, so that the largest is near 2^8 and small ones stay out
// of E4M3's subnormals. The factor cancels in the division by the row sum.
#pragma once

#include <cuda_fp16.h>

#include "cuda/attention/sm90/prefill/config.cuh"
#include "cuda/ptx/math.cuh"

namespace kv8::sm90 {

inline constexpr float kPeakLog2 = 8.0f;       // 2^8 <= 448, the largest E4M3 value
inline constexpr float kNoOffset = -60000.0f;  // below every real maximum, finite in FP16

/// Registers that a thread's share of the scores of `kBlocks` pages takes.
template <class C, int kBlocks>
struct Scores {
  using Element = float;
  static constexpr int kCount = kBlocks * kPageRows / 2;
};
template <class C, int kBlocks>
requires(C::kHalfScores) struct Scores<C, kBlocks> {
  using Element = uint32_t;
  static constexpr int kCount = kBlocks * kPageRows / 4;
};

__device__ __forceinline__ uint32_t half_pair(float value) {
  const __half2 pair = __float2half2_rn(value);
  return reinterpret_cast<const uint32_t&>(pair);
}

/// The factor from scores to exponents of 2, in the form that the scores' type wants: FP16 scores
/// take it rounded to FP16, twice. The rounding (2^-12 at most) changes the softmax temperature by
/// as much, the same for every key.
template <class C>
struct Scale {
  uint32_t bits;

  __device__ explicit Scale(float scale)
      : bits(C::kHalfScores ? half_pair(scale) : reinterpret_cast<const uint32_t&>(scale)) {}
  __device__ float as_float() const {
    if constexpr (!C::kHalfScores) return reinterpret_cast<const float&>(bits);
    return __low2float(reinterpret_cast<const __half2&>(bits));
  }
};

/// Sets scores of keys after a row's last visible one to minus infinity. `last_key` holds those of
/// this thread's two rows, relative to the tile's first column.
template <int kCount>
__device__ __forceinline__ void mask_scores(float (&s)[kCount], const int (&last_key)[2], int q) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int column = 8 * (i / 4) + 2 * q + i % 2;
    if (column > last_key[i / 2 % 2]) s[i] = -INFINITY;
  }
}
template <int kCount>
__device__ __forceinline__ void mask_scores(uint32_t (&s)[kCount], const int (&last_key)[2],
                                            int q) {
  __half2 last[2];  // this thread's columns are 2q and 2q + 1 of every 8
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    last[r] = __half2half2(__int2half_rn(max(min(last_key[r], 2047) - 2 * q, -1)));
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const __half2 column = __floats2half2_rn(8 * (i / 2), 8 * (i / 2) + 1);
    const uint32_t hidden = __hgt2_mask(column, last[i % 2]);
    s[i] = (s[i] & ~hidden) | (0xfc00fc00u & hidden);
  }
}

/// Row maxima over the four threads that share a row.
template <int kCount>
__device__ __forceinline__ void row_maxima(const float (&s)[kCount], float (&maxima)[2]) {
  float m[4] = {s[0], s[1], s[2], s[3]};
#pragma unroll
  for (int i = 4; i < kCount; ++i) m[i % 4] = fmaxf(m[i % 4], s[i]);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float x = fmaxf(m[2 * r], m[2 * r + 1]);
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    maxima[r] = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
  }
}
template <int kCount>
__device__ __forceinline__ void row_maxima(const uint32_t (&s)[kCount], float (&maxima)[2]) {
  uint32_t m[4] = {s[0], s[1], s[2], s[3]};
#pragma unroll
  for (int i = 4; i < kCount; ++i) m[i % 4] = ptx::pair_max(m[i % 4], s[i]);
  const uint32_t row0 = ptx::pair_max(m[0], m[2]), row1 = ptx::pair_max(m[1], m[3]);
  // Both rows in one register: low half row 0, high half row 1.
  uint32_t both = ptx::pair_max(__byte_perm(row0, row1, 0x5410), __byte_perm(row0, row1, 0x7632));
  both = ptx::pair_max(both, __shfl_xor_sync(0xffffffffu, both, 1));
  both = ptx::pair_max(both, __shfl_xor_sync(0xffffffffu, both, 2));
  const __half2 pair = reinterpret_cast<const __half2&>(both);
  maxima[0] = __low2float(pair);
  maxima[1] = __high2float(pair);
}

/// Raises the offsets to this tile's maxima; `decay[r]` is the factor that earlier sums now take.
template <class C>
__device__ __forceinline__ void raise_offsets(const float (&maxima)[2], Scale<C> scale,
                                              float (&offset)[2], float (&decay)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float next = fmaf(maxima[r], scale.as_float(), -kPeakLog2);
    if constexpr (C::kHalfScores) {
      // The offset must be exact in FP16, or tiles of different offsets would not agree. Rounded
      // upwards: the peak must not pass 2^8.
      next = __half2float(__float2half_ru(next));
    }
    next = fmaxf(offset[r], next);
    decay[r] = ptx::exp2_approx(offset[r] - next);
    offset[r] = next;
  }
}

/// The E4M3 codes of 2^x for two FP16 scores, x = score * scale - offset, as the low bytes of both
/// halves. `shift` is 7 - offset. On the FMA pipe: no special-function unit, no conversion.
///
/// The code of 2^(n + f) is 8 (n + 7) + 8 (2^f - 1): a fixed-point log2 plus 8 (2^f - 1 - f), which
/// a parabola in f follows to within 0.05 of a code. `fixed` holds 2048 + 128 (x + 7), so its six
/// low mantissa bits are f; the last sum leaves 16384 + 16 code, whose mantissa is the rounded
/// code.
__device__ __forceinline__ uint32_t exp2_codes(uint32_t score, uint32_t scale, uint32_t shift) {
  const uint32_t kExponent2048 = 0x68006800u;
  const uint32_t log2 = ptx::pair_fma_relu(score, scale, shift);
  const uint32_t fixed = ptx::pair_fma(log2, 0x58005800u /* 128 */, kExponent2048);
  const uint32_t fraction = (fixed & 0x003f003fu) | kExponent2048;  // 2048 + v, v = 128 f
  const uint32_t left = ptx::pair_add(fraction, 0xe802e802u);       // v - 4
  const uint32_t right =                                            // 0.0029 (v - 130)
      ptx::pair_fma(fraction, 0x19f019f0u, 0xc651c651u);
  return ptx::pair_add(ptx::pair_fma(left, right, fixed), 0x73007300u /* 14336 */);
}

/// Whether group `group` of 16 columns takes its exponentials as codes.
template <class C>
__host__ __device__ constexpr bool uses_codes(int group) {
  return (group + 1) * C::kCodeEighths / 8 != group * C::kCodeEighths / 8;
}

/// FP16 scores to powers of two in their place, as FP16 or as E4M3 codes.
template <class C, int kCount>
__device__ __forceinline__ void exponentiate(uint32_t (&s)[kCount], const float (&offset)[2],
                                             Scale<C> scale, float (&)[2]) {
  const uint32_t minus[2] = {half_pair(-offset[0]), half_pair(-offset[1])};
  const uint32_t shift[2] = {half_pair(7.0f - offset[0]), half_pair(7.0f - offset[1])};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    s[i] = uses_codes<C>(i / 4) ? exp2_codes(s[i], scale.bits, shift[i % 2])
                                : ptx::pair_exp2(ptx::pair_fma(s[i], scale.bits, minus[i % 2]));
  }
}

/// The same of FP32 scores. Without rows of ones the row sums are taken here.
template <class C, int kCount>
__device__ __forceinline__ void exponentiate(float (&s)[kCount], const float (&offset)[2],
                                             Scale<C> scale, float (&sum)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int r = i / 2 % 2;
    s[i] = ptx::exp2_approx(fmaf(s[i], scale.as_float(), -offset[r]));
    if constexpr (C::kOnesRows == 0) sum[r] += s[i];
  }
}

/// What `exponentiate` left, as the A operand of P·V: FP8's p[2j + r] holds row r of 16 columns,
/// FP16's p[4j + 2i + r] columns 8i .. 8i + 7 of them.
template <class C, int kCount>
__device__ __forceinline__ void pack(const uint32_t (&s)[kCount], uint32_t (&p)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const int j = i / 2, r = i % 2;
    const uint32_t low = s[4 * j + r], high = s[4 * j + 2 + r];
    p[i] = uses_codes<C>(j) ? __byte_perm(low, high, 0x6420) : ptx::pairs_to_e4m3(low, high);
  }
}
template <class C, int kCount>
__device__ __forceinline__ void pack(const float (&s)[kCount],
                                     uint32_t (&p)[C::kFp8 ? kCount / 4 : kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    const int at = 8 * (i / 2) + 2 * (i % 2);
    if constexpr (C::kFp8) {
      p[i] = ptx::floats_to_e4m3(s[at], s[at + 1], s[at + 4], s[at + 5]);
    } else {
      p[4 * (i / 2) + i % 2] = ptx::floats_to_half_pair(s[at], s[at + 1]);
      p[4 * (i / 2) + 2 + i % 2] = ptx::floats_to_half_pair(s[at + 4], s[at + 5]);
    }
  }
}

}  // namespace kv8::sm90
