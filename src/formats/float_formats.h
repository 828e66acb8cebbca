// FP16, BF16 and FP8 E4M3: what the bits mean, and the scalar codecs that are the oracle for every
// faster one.
//
//   format  sign exponent mantissa bias  largest   smallest normal  smallest subnormal  specials
//   FP16    1    5        10       15    65504     2^-14            2^-24               inf, NaN
//   BF16    1    8        7        127   3.39e38   2^-126           2^-133              inf, NaN
//   E4M3    1    4        3        7     448       2^-6             2^-9                NaN =
//   S.1111.111 only
//
// Encoding rounds to nearest, ties to even. E4M3 (the "FN" form of the OCP 8-bit floating-point
// specification 1.0) has no infinity: finite overflow and infinities saturate to +-448 and NaN
// becomes 0x7F, exactly as ONNX's QuantizeLinear with saturation. FP16 and BF16 overflow to
// infinity as IEEE 754 says.
#pragma once

#include <cstdint>

namespace kv8 {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr std::uint8_t kE4m3Nan = 0x7F;

std::uint8_t e4m3_from_float(float value);
float e4m3_to_float(std::uint8_t code);
std::uint16_t f16_from_float(float value);
float f16_to_float(std::uint16_t bits);
std::uint16_t bf16_from_float(float value);
float bf16_to_float(std::uint16_t bits);

}  // namespace kv8
