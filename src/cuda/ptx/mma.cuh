// Warp-wide matrix products and the loads and conversions around them. One PTX instruction per
// function. A "pair" is two FP16 values in one 32-bit register, the first in the low half.
#pragma once

#include <cstdint>

namespace kv8::ptx {

/// D[16, 8] += A[16, 16] * B[16, 8] in FP16 with FP32 accumulators. Lane 4g + q holds of A the
/// pairs at rows g, g + 8, g, g + 8 and columns 2q, 2q, 2q + 8, 2q + 8; of B column g, rows 2q and
/// 2q + 8; of D rows g, g, g + 8, g + 8 and columns 2q, 2q + 1, 2q, 2q + 1.
__device__ __forceinline__ void mma_half(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// The same in BF16.
__device__ __forceinline__ void mma_bfloat(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// D[16, 8] += A[16, 32] * B[32, 8] in E4M3 with FP32 accumulators, of which some architectures
/// keep few bits. As above with four codes in place of a pair: columns 4q and 16 + 4q of A, rows 4q
/// and 16 + 4q of B.
__device__ __forceinline__ void mma_e4m3(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Four E4M3 codes as FP16, exactly, in order from the low byte. NaN stays NaN. (Both conversions
/// are one asm so that ptxas selects the halves of the word in them, without a shift.)
__device__ __forceinline__ uint2 e4m3_to_half_pairs(uint32_t codes) {
  uint2 pairs;
  asm("{\n .reg .b16 l, h;\n"
      " mov.b32 {l, h}, %2;\n"
      " cvt.rn.f16x2.e4m3x2 %0, l;\n"
      " cvt.rn.f16x2.e4m3x2 %1, h;\n}\n"
      : "=r"(pairs.x), "=r"(pairs.y)
      : "r"(codes));
  return pairs;
}

__device__ __forceinline__ uint4 load_shared_16(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address));
  return value;
}

__device__ __forceinline__ uint2 load_shared_8(uint32_t address) {
  uint2 value;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "r"(address));
  return value;
}

/// Transposes an 8 x 8 matrix of 16-bit elements of which lane 4g + q holds row g, columns 2q and
/// 2q + 1: an accumulator becomes the B operand of the next product.
__device__ __forceinline__ uint32_t transpose_pairs(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&words)[2]) {
  const uint2 value = load_shared_8(address);
  words[0] = value.x, words[1] = value.y;
}
__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&words)[4]) {
  const uint4 value = load_shared_16(address);
  words[0] = value.x, words[1] = value.y, words[2] = value.z, words[3] = value.w;
}

__device__ __forceinline__ void store_shared_16(uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

}  // namespace kv8::ptx
