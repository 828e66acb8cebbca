#include "formats/float_formats.h"

#include <bit>

namespace kv8 {
namespace {

constexpr std::uint32_t kF32Inf = 0x7F800000u;

/// Drops `shift` bits, rounding to nearest, ties to even.
constexpr std::uint32_t round_shift(std::uint32_t bits, int shift) {
  const std::uint32_t half_minus_one = (1u << (shift - 1)) - 1;
  return (bits + half_minus_one + ((bits >> shift) & 1)) >> shift;
}

/// `magnitude` in units of the last place of `anchor`, rounded to nearest even by the addition
/// itself. Holds for magnitude < anchor, a power of two.
std::uint32_t units_by_addition(float magnitude, float anchor) {
  return std::bit_cast<std::uint32_t>(magnitude + anchor) - std::bit_cast<std::uint32_t>(anchor);
}

}  // namespace

std::uint8_t e4m3_from_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > kF32Inf) return kE4m3Nan;
  const std::uint32_t sign = (bits >> 24) & 0x80u;
  std::uint32_t code = 0;
  if (magnitude < 0x3C800000u) {  // below 2^-6: steps of 2^-9
    code = units_by_addition(std::bit_cast<float>(magnitude), 16384.0f);
  } else if (magnitude >= 0x43E00000u) {  // 448 and more
    code = 0x7E;
  } else {
    code = round_shift(magnitude, 20) - ((127 - 7) << 3);
  }
  return static_cast<std::uint8_t>(sign | code);
}

float e4m3_to_float(std::uint8_t code) {
  const std::uint32_t sign = (code & 0x80u) << 24;
  const std::uint32_t magnitude = code & 0x7Fu;
  std::uint32_t bits = 0;
  if (magnitude == 0x7F) {
    bits = kF32Inf | (7u << 20);
  } else if (magnitude < 8) {
    bits = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-9f);
  } else {
    bits = (magnitude << 20) + ((127u - 7u) << 23);
  }
  return std::bit_cast<float>(sign | bits);
}

std::uint16_t f16_from_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  std::uint32_t code = 0;
  if (magnitude > kF32Inf) {
    code = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
  } else if (magnitude >= 0x477FF000u) {  // 65520, halfway to 2^16, and more
    code = 0x7C00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: steps of 2^-24
    code = units_by_addition(std::bit_cast<float>(magnitude), 0.5f);
  } else {
    code = round_shift(magnitude - (112u << 23), 13);
  }
  return static_cast<std::uint16_t>(sign | code);
}

float f16_to_float(std::uint16_t code) {
  const std::uint32_t sign = (code & 0x8000u) << 16;
  const std::uint32_t exponent = (code >> 10) & 0x1Fu;
  const std::uint32_t mantissa = code & 0x3FFu;
  std::uint32_t bits = 0;
  if (exponent == 31) {
    bits = kF32Inf | (mantissa << 13) | (mantissa != 0 ? 0x400000u : 0u);
  } else if (exponent == 0) {
    bits = std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
  } else {
    bits = ((exponent + 112u) << 23) | (mantissa << 13);
  }
  return std::bit_cast<float>(sign | bits);
}

std::uint16_t bf16_from_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > kF32Inf) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>(round_shift(bits, 16));
}

float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace kv8
