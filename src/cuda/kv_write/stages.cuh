// What happens to one head of one token, stage by stage: normalize, rope, subtract, hadamard,
// divide, saturate, round, place.
//
// A head is shared by kLanes = head_dim / (2 kRun) neighbouring lanes. Lane j of them holds dims
// kRun j .. + kRun - 1 and head_dim / 2 + kRun j .. + kRun - 1, so that RoPE's pairs meet in one
// lane and accesses are wide. FP32 products and sums round where docs/numbers.md says.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/kv_write/params.h"
#include "cuda/ptx/math.cuh"

namespace kv8::kv_write {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

/// A lane's part of a head: dims of the lower and of the upper half.
template <int kRun>
struct Part {
  float half[2][kRun];
};

/// Something of `kBytes` that is loaded and stored at once.
template <int kBytes>
using Packed = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, uint32_t, uint16_t>>>;

/// Values of the model's type.
template <bool kBf16, int kCount>
__device__ __forceinline__ void widen(const Packed<2 * kCount>& raw, float (&x)[kCount]) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(&raw);
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
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
template <bool kBf16, int kCount>
__device__ __forceinline__ void to_model(float (&x)[kCount]) {
  Packed<2 * kCount> raw;
  uint32_t* words = reinterpret_cast<uint32_t*>(&raw);
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    words[i] = kBf16 ? ptx::floats_to_bfloat_pair(x[2 * i], x[2 * i + 1])
                     : ptx::floats_to_half_pair(x[2 * i], x[2 * i + 1]);
  }
  widen<kBf16>(raw, x);
}

/// x * (1 / sqrt(mean(x^2) + eps)) * weight; mean and root in FP64.
template <bool kBf16, int kLanes, int kRun>
__device__ __forceinline__ void normalize(Part<kRun>& x, const void* weight, float eps, int j) {
  double sum = 0.0;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) sum = fma(double{x.half[h][i]}, double{x.half[h][i]}, sum);
  }
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  const float inverse = static_cast<float>(1.0 / sqrt(sum / (2 * kRun * kLanes) + double{eps}));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float weights[kRun];
    widen<kBf16>(static_cast<const Packed<2 * kRun>*>(weight)[h * kLanes + j], weights);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      x.half[h][i] = __fmul_rn(__fmul_rn(x.half[h][i], inverse), weights[i]);
    }
  }
}

/// Rotates and rounds to the model's type.
template <bool kBf16, int kRun>
__device__ __forceinline__ void rope(Part<kRun>& x, const Part<kRun>& cos_sin) {
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const float c = cos_sin.half[0][i], s = cos_sin.half[1][i];
    const float low = x.half[0][i], high = x.half[1][i];
    x.half[0][i] = __fsub_rn(__fmul_rn(low, c), __fmul_rn(high, s));
    x.half[1][i] = __fadd_rn(__fmul_rn(high, c), __fmul_rn(low, s));
  }
  to_model<kBf16>(x.half[0]);
  to_model<kBf16>(x.half[1]);
}

/// Subtracts the head's offset.
template <int kLanes, int kRun>
__device__ __forceinline__ void subtract(Part<kRun>& x, const float* offset, int j) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      x.half[h][i] = __fsub_rn(x.half[h][i], offset[kRun * (h * kLanes + j) + i]);
    }
  }
}

__device__ __forceinline__ void butterfly(float& a, float& b) {
  const float sum = __fadd_rn(a, b), difference = __fsub_rn(a, b);
  a = sum;
  b = difference;
}

/// The Walsh-Hadamard transform: strides 1, 2, 4, … in this order, the factor 1 / sqrt(head_dim)
/// last.
template <int kLanes, int kRun>
__device__ __forceinline__ void hadamard(Part<kRun>& x, int j) {
#pragma unroll
  for (int stride = 1; stride < kRun; stride *= 2) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if ((i & stride) == 0) {
        butterfly(x.half[0][i], x.half[0][i + stride]);
        butterfly(x.half[1][i], x.half[1][i + stride]);
      }
    }
  }
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    const bool second = (j & d) != 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float other = __shfl_xor_sync(kAllLanes, x.half[h][i], d);
        x.half[h][i] = second ? __fsub_rn(other, x.half[h][i]) : __fadd_rn(x.half[h][i], other);
      }
    }
  }
  const float factor = kLanes * kRun == 32 ? 0.125f : 0.088388347648318447f;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    butterfly(x.half[0][i], x.half[1][i]);
    x.half[0][i] = __fmul_rn(x.half[0][i], factor);
    x.half[1][i] = __fmul_rn(x.half[1][i], factor);
  }
}

/// x / scale in place, rounded as IEEE 754 divides. With y = RN(1 / scale) and q = RN(x y),
/// RN(q + RN(x - q scale) y) is the rounded quotient (Markstein) as long as nothing over- or
/// underflows; values and scales out of the ordinary take the division itself.
template <int kCount>
__device__ __forceinline__ void quotient(float (&x)[kCount], const KvScale& by) {
  const float inverse = fabsf(by.inverse);
  float largest = 0.0f;  // a NaN does not matter: it stays one either way
#pragma unroll
  for (int i = 0; i < kCount; ++i) largest = fmaxf(largest, fabsf(x[i]));
  if (largest < 0x1p60f && by.scale > 0x1p-60f && by.scale < 0x1p60f) [[likely]] {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float q = __fmul_rn(x[i], inverse);
      // The remainder negated, so that -0 stays -0.
      x[i] = __fmaf_rn(__fmaf_rn(q, by.scale, -x[i]), -inverse, q);
    }
  } else {
#pragma unroll 1
    for (int turn = 0; turn < kCount; ++turn) {  // rare: one division's code, values take turns
      const float first = __fdiv_rn(x[0], by.scale);
#pragma unroll
      for (int i = 0; i < kCount - 1; ++i) x[i] = x[i + 1];
      x[kCount - 1] = first;
    }
  }
}

/// The same of several parts, which take turns: little code.
template <int kParts, int kCount>
__device__ __forceinline__ void quotients(float (&x)[kParts][kCount], const KvScale& by) {
#pragma unroll 1
  for (int turn = 0; turn < kParts; ++turn) {
    quotient(x[0], by);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float first = x[0][i];
#pragma unroll
      for (int part = 0; part < kParts - 1; ++part) x[part][i] = x[part + 1][i];
      x[kParts - 1][i] = first;
    }
  }
}

/// What leads to the same codes where the inverse is positive and x has the model's type.
template <int kParts, int kCount>
__device__ __forceinline__ void products(float (&x)[kParts][kCount], float inverse) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[part][i] = __fmul_rn(x[part][i], inverse);
  }
}

/// At most `limit` in magnitude; NaN stays NaN.
template <int kParts, int kCount>
__device__ __forceinline__ void saturate(float (&x)[kParts][kCount], float limit) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm("min.NaN.f32 %0, %0, %1;" : "+f"(x[part][i]) : "f"(limit));
      asm("max.NaN.f32 %0, %0, %1;" : "+f"(x[part][i]) : "f"(-limit));
    }
  }
}

/// `kRun` FP8 codes or FP16 values.
template <bool kFp8, int kRun>
using Codes = Packed<kRun*(kFp8 ? 1 : 2)>;

/// Of values that are divided already.
template <bool kFp8, int kRun>
__device__ __forceinline__ Codes<kFp8, kRun> round(const float (&x)[kRun]) {
  Codes<kFp8, kRun> codes;
  if constexpr (kFp8 && kRun == 2) {
    codes = ptx::floats_to_e4m3_pair(x[0], x[1]);
  } else {
    uint32_t* words = reinterpret_cast<uint32_t*>(&codes);
#pragma unroll
    for (int i = 0; i < kRun; i += kFp8 ? 4 : 2) {
      if constexpr (kFp8) {
        words[i / 4] = ptx::floats_to_e4m3(x[i], x[i + 1], x[i + 2], x[i + 3]);
      } else {
        words[i / 2] = ptx::floats_to_half_pair(x[i], x[i + 1]);
      }
    }
  }
  return codes;
}

/// Stores a lane's part of a head whose dims are contiguous (Q and K), or zeros. `to`: its lower
/// half's.
template <bool kFp8, int kHeadDim, int kRun>
__device__ __forceinline__ void place(uint8_t* to, const Part<kRun>& x, bool zeros) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const auto codes = zeros ? Codes<kFp8, kRun>{} : round<kFp8>(x.half[h]);
    auto* const at = reinterpret_cast<Codes<kFp8, kRun>*>(to + h * kHeadDim / 2 * (kFp8 ? 1 : 2));
    *at = codes;
  }
}

}  // namespace kv8::kv_write
