// Packed half arithmetic, exponentials and conversions to E4M3. One PTX instruction per function.
// A "pair" is two FP16 values in one 32-bit register, the first in the low half.
#pragma once

#include <cstdint>

namespace kv8::ptx {

/// 2^x to about 2 ulp, denormal results flushed.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t pair_exp2(uint32_t x) {
  uint32_t y;
  asm("ex2.approx.f16x2 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

__device__ __forceinline__ uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// max(a * b + c, 0)
__device__ __forceinline__ uint32_t pair_fma_relu(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.relu.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

__device__ __forceinline__ uint32_t pair_add(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ __forceinline__ uint32_t pair_max(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

/// Four FP16 values rounded to nearest even and saturated at 448, in order from the low byte. (The
/// two conversions and the joining of their halves are one asm so that ptxas merges them.)
__device__ __forceinline__ uint32_t pairs_to_e4m3(uint32_t low, uint32_t high) {
  uint32_t codes;
  asm("{\n .reg .b16 l, h;\n"
      " cvt.rn.satfinite.e4m3x2.f16x2 l, %1;\n"
      " cvt.rn.satfinite.e4m3x2.f16x2 h, %2;\n"
      " mov.b32 %0, {l, h};\n}\n"
      : "=r"(codes)
      : "r"(low), "r"(high));
  return codes;
}

/// The same of four floats.
__device__ __forceinline__ uint32_t floats_to_e4m3(float a, float b, float c, float d) {
  uint32_t codes;
  asm("{\n .reg .b16 l, h;\n"
      " cvt.rn.satfinite.e4m3x2.f32 l, %2, %1;\n"
      " cvt.rn.satfinite.e4m3x2.f32 h, %4, %3;\n"
      " mov.b32 %0, {l, h};\n}\n"
      : "=r"(codes)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return codes;
}

/// Two floats, the first in the low byte.
__device__ __forceinline__ uint16_t floats_to_e4m3_pair(float a, float b) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(codes) : "f"(a), "f"(b));
  return codes;
}

__device__ __forceinline__ uint32_t floats_to_half_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(pair) : "f"(low), "f"(high));
  return pair;
}

__device__ __forceinline__ uint32_t floats_to_bfloat_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(pair) : "f"(low), "f"(high));
  return pair;
}

}  // namespace kv8::ptx
