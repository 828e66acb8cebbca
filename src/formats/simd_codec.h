// Bulk conversions with SIMD, chosen at run time for the processor. Every result has the bits of
// the scalar codecs in float_formats.h, for every input. Input and output may have any alignment
// but must not overlap.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kv8 {

void f16_to_float(const std::uint16_t* in, float* out, std::size_t count);
void bf16_to_float(const std::uint16_t* in, float* out, std::size_t count);
void e4m3_to_float(const std::uint8_t* in, float* out, std::size_t count);
void f16_from_float(const float* in, std::uint16_t* out, std::size_t count);
void bf16_from_float(const float* in, std::uint16_t* out, std::size_t count);
/// out[i] = e4m3(in[i] / scale), the division in IEEE FP32.
void e4m3_from_float(const float* in, float scale, std::uint8_t* out, std::size_t count);

}  // namespace kv8
