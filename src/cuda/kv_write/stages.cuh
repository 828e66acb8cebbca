// What happens to one head of one token, stage by stage: normalize, rope, transform, round, place.
//
// A head is shared by kLanes = head_dim / 16 neighbouring lanes. Lane j of them holds dims
// 8j .. 8j + 7 and head_dim / 2 + 8j .. + 7, so that RoPE's pairs meet in one lane and every access
// is 16 bytes. FP32 products and sums round where docs/numbers.md says.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/ptx/math.cuh"
#include "ops/kv_layout.h"

namespace kv8::kv_write {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

/// A lane's part of a head.
struct Part {
  float low[8], high[8];
};

template <bool kBf16>
__device__ __forceinline__ void widen(const uint4& raw, float (&x)[8]) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kBf16) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
}

/// Rounds to the model's type.
template <bool kBf16>
__device__ __forceinline__ void to_model(float (&x)[8]) {
  uint4 raw;
  uint32_t* words = reinterpret_cast<uint32_t*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = kBf16 ? ptx::floats_to_bfloat_pair(x[2 * i], x[2 * i + 1])
                     : ptx::floats_to_half_pair(x[2 * i], x[2 * i + 1]);
  }
  widen<kBf16>(raw, x);
}

/// x * (1 / sqrt(mean(x^2) + eps)) * weight; mean and root in FP64.
template <bool kBf16, int kLanes>
__device__ __forceinline__ void normalize(Part& x, const void* weight, float eps, int j) {
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fma(double{x.low[i]}, double{x.low[i]}, sum);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fma(double{x.high[i]}, double{x.high[i]}, sum);
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  const float inverse = static_cast<float>(1.0 / sqrt(sum / (16 * kLanes) + double{eps}));
  const uint4* weights = static_cast<const uint4*>(weight);
  float low[8], high[8];
  widen<kBf16>(weights[j], low);
  widen<kBf16>(weights[kLanes + j], high);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    x.low[i] = __fmul_rn(__fmul_rn(x.low[i], inverse), low[i]);
    x.high[i] = __fmul_rn(__fmul_rn(x.high[i], inverse), high[i]);
  }
}

/// Rotates and rounds to the model's type.
template <bool kBf16>
__device__ __forceinline__ void rope(Part& x, const Part& angle_cos_sin) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float c = angle_cos_sin.low[i], s = angle_cos_sin.high[i];
    const float low = x.low[i], high = x.high[i];
    x.low[i] = __fsub_rn(__fmul_rn(low, c), __fmul_rn(high, s));
    x.high[i] = __fadd_rn(__fmul_rn(high, c), __fmul_rn(low, s));
  }
  to_model<kBf16>(x.low);
  to_model<kBf16>(x.high);
}

__device__ __forceinline__ void butterfly(float& a, float& b) {
  const float sum = __fadd_rn(a, b), difference = __fsub_rn(a, b);
  a = sum;
  b = difference;
}

/// Subtracts the head's offset, then applies the Walsh-Hadamard transform: strides 1, 2, 4, … in
/// this order, the factor 1 / sqrt(head_dim) last. `offset` may be null.
template <int kLanes>
__device__ __forceinline__ void transform(Part& x, const float* offset, bool hadamard, int j) {
  if (offset != nullptr) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x.low[i] = __fsub_rn(x.low[i], offset[8 * j + i]);
      x.high[i] = __fsub_rn(x.high[i], offset[8 * (kLanes + j) + i]);
    }
  }
  if (!hadamard) return;
#pragma unroll
  for (int stride = 1; stride < 8; stride *= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if ((i & stride) == 0) {
        butterfly(x.low[i], x.low[i + stride]);
        butterfly(x.high[i], x.high[i + stride]);
      }
    }
  }
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    const bool second = (j & d) != 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float low = __shfl_xor_sync(kAllLanes, x.low[i], d);
      const float high = __shfl_xor_sync(kAllLanes, x.high[i], d);
      x.low[i] = second ? __fsub_rn(low, x.low[i]) : __fadd_rn(x.low[i], low);
      x.high[i] = second ? __fsub_rn(high, x.high[i]) : __fadd_rn(x.high[i], high);
    }
  }
  const float factor = kLanes == 4 ? 0.125f : 0.088388347648318447f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    butterfly(x.low[i], x.high[i]);
    x.low[i] = __fmul_rn(x.low[i], factor);
    x.high[i] = __fmul_rn(x.high[i], factor);
  }
}

/// Whether e4m3(RN(x y)) = e4m3(RN(x / scale)), y = RN(1 / scale), for every x of 11 significant
/// bits, by looking at every `kParts`-th of 16 candidates from `part` on. The two can differ only
/// if a midpoint between neighbouring codes lies between RN(x y) and x / scale, which are within
/// 2^-22 of each other. Midpoints are odd multiples, 1 to 31, of a power of two; so it is enough
/// that no odd * scale lies within 2^-21 of a number of 11 bits.
template <int kParts>
__device__ __forceinline__ bool product_suffices(float scale, int part) {
  bool far = scale > 0x1p-60f && scale < 0x1p60f;
#pragma unroll
  for (int i = 0; i < 16; i += kParts) {
    const uint32_t bits = __float_as_uint(static_cast<float>(2 * (part + i) + 1) * scale);
    far &= (bits + 8 & 0x1fff) > 16;
  }
  return far;
}

/// What divides by a scale.
struct Divisor {
  float scale, inverse;
  bool by_product;  ///< the same for the whole warp

  /// Called by whole warps, which may divide by a few scales: lanes whose `part` of `kParts` differ
  /// and that share a scale see to all candidates. `short_values`: at most 11 significant bits.
  template <int kParts>
  __device__ __forceinline__ static Divisor of(float scale, int part, bool short_values) {
    return {scale, __frcp_rn(scale),
            __all_sync(kAllLanes, product_suffices<kParts>(scale, part)) && short_values};
  }
};

/// x / scale in place, rounded as IEEE 754 divides or, with `by_product`, to the same E4M3 code.
/// With y = RN(1 / scale) and q = RN(x y), RN(q + RN(x - q scale) y) is the rounded quotient
/// (Markstein) as long as nothing over- or underflows; values and scales out of the ordinary take
/// the division itself.
__device__ __forceinline__ void divide(float (&x)[8], const Divisor& by) {
  if (by.by_product) [[likely]] {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = __fmul_rn(x[i], by.inverse);
    return;
  }
  float largest = 0.0f;  // a NaN does not matter: it stays one either way
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
  if (largest < 0x1p60f && by.scale > 0x1p-60f && by.scale < 0x1p60f) [[likely]] {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float q = __fmul_rn(x[i], by.inverse);
      // The remainder negated, so that -0 stays -0.
      x[i] = __fmaf_rn(__fmaf_rn(q, by.scale, -x[i]), -by.inverse, q);
    }
  } else {
#pragma unroll 1
    for (int turn = 0; turn < 8; ++turn) {  // rare: one division's code, the values take turns
      const float first = __fdiv_rn(x[0], by.scale);
#pragma unroll
      for (int i = 0; i < 7; ++i) x[i] = x[i + 1];
      x[7] = first;
    }
  }
}

/// Eight FP8 codes or FP16 values.
template <bool kFp8>
struct Codes;
template <>
struct Codes<true> {
  using Words = uint2;
};
template <>
struct Codes<false> {
  using Words = uint4;
};

/// At most `limit` in magnitude; NaN stays NaN.
__device__ __forceinline__ void saturate(float (&x)[8], float limit) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(x[i]) : "f"(limit));
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(x[i]) : "f"(-limit));
  }
}

/// `by` and `limit`, the largest code, are not used for FP16.
template <bool kFp8>
__device__ __forceinline__ typename Codes<kFp8>::Words round(float (&x)[8], const Divisor& by,
                                                             float limit) {
  if constexpr (kFp8) {
    divide(x, by);
    if (limit < 448.0f) saturate(x, limit);
    return make_uint2(ptx::floats_to_e4m3(x[0], x[1], x[2], x[3]),
                      ptx::floats_to_e4m3(x[4], x[5], x[6], x[7]));
  } else {
    return make_uint4(ptx::floats_to_half_pair(x[0], x[1]), ptx::floats_to_half_pair(x[2], x[3]),
                      ptx::floats_to_half_pair(x[4], x[5]), ptx::floats_to_half_pair(x[6], x[7]));
  }
}

/// Stores a head whose dims are contiguous (Q and K). `at`: the head's first element.
template <bool kFp8, int kLanes>
__device__ __forceinline__ void place(void* base, int64_t at, int j,
                                      const typename Codes<kFp8>::Words& low,
                                      const typename Codes<kFp8>::Words& high) {
  auto* words = reinterpret_cast<typename Codes<kFp8>::Words*>(static_cast<uint8_t*>(base) +
                                                               at * (kFp8 ? 1 : 2));
  words[j] = low;
  words[kLanes + j] = high;
}

/// Stores eight dims of V of one token: they lie a page row apart. `at`: the first one's element.
template <bool kFp8>
__device__ __forceinline__ void place_column(void* base, int64_t at,
                                             const typename Codes<kFp8>::Words& codes) {
  using Element = std::conditional_t<kFp8, uint8_t, uint16_t>;
  Element* to = static_cast<Element*>(base) + at;
  const uint32_t* words = reinterpret_cast<const uint32_t*>(&codes);
  constexpr int kPerWord = kFp8 ? 4 : 2;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    to[i * kPageTokens] =
        static_cast<Element>(words[i / kPerWord] >> (32 / kPerWord * (i % kPerWord)));
  }
}

}  // namespace kv8::kv_write
