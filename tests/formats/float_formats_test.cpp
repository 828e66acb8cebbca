#include "formats/float_formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace kv8 {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// A small binary format by its definition: (-1)^s * 2^(e - bias) * (1 + m / 2^M), or
/// 2^(1 - bias) * m / 2^M where e is 0.
double value_by_definition(std::uint32_t code, int exponent_bits, int mantissa_bits, int bias) {
  const std::uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>((code >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const bool negative = ((code >> (exponent_bits + mantissa_bits)) & 1) != 0;
  const double fraction = std::ldexp(static_cast<double>(mantissa), -mantissa_bits);
  const double value =
      exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
  return negative ? -value : value;
}

TEST(E4m3, EveryCodeHasTheValueOfTheDefinition) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<std::uint8_t>(code));
    EXPECT_EQ(std::signbit(value), code >= 128) << code;
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(value, value_by_definition(static_cast<std::uint32_t>(code), 4, 3, 7)) << code;
    }
  }
  EXPECT_EQ(e4m3_to_float(0x7E), kE4m3Max);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);
}

TEST(E4m3, EveryCodeSurvivesARoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const auto back = e4m3_from_float(e4m3_to_float(static_cast<std::uint8_t>(code)));
    EXPECT_EQ(back, (code & 0x7F) == 0x7F ? kE4m3Nan : code);
  }
}

TEST(E4m3, SpecialValues) {
  EXPECT_EQ(e4m3_from_float(kNan), 0x7F);
  EXPECT_EQ(e4m3_from_float(-kNan), 0x7F);
  EXPECT_EQ(e4m3_from_float(std::bit_cast<float>(0x7F800001u)), 0x7F);
  EXPECT_EQ(e4m3_from_float(kInf), 0x7E);
  EXPECT_EQ(e4m3_from_float(-kInf), 0xFE);
  EXPECT_EQ(e4m3_from_float(3.4e38f), 0x7E);
  EXPECT_EQ(e4m3_from_float(-449.0f), 0xFE);
  EXPECT_EQ(e4m3_from_float(464.0f), 0x7E);
  EXPECT_EQ(e4m3_from_float(0.0f), 0x00);
  EXPECT_EQ(e4m3_from_float(-0.0f), 0x80);
  EXPECT_EQ(e4m3_from_float(-1e-30f), 0x80);
  EXPECT_EQ(e4m3_from_float(std::numeric_limits<float>::denorm_min()), 0x00);
}

/// Nearest representable value by trying all; of two equally near, the one with an even code.
std::uint8_t nearest_by_search(float value) {
  if (std::isnan(value)) return 0x7F;
  const double magnitude = std::fmin(std::fabs(static_cast<double>(value)), 448.0);
  int best = 0;
  double best_distance = kInf;
  for (int code = 0; code < 0x7F; ++code) {
    const double distance =
        std::fabs(value_by_definition(static_cast<std::uint32_t>(code), 4, 3, 7) - magnitude);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = code;
      best_distance = distance;
    }
  }
  return static_cast<std::uint8_t>(best | (std::signbit(value) ? 0x80 : 0));
}

TEST(E4m3, MidpointsGoToTheEvenCode) {
  for (int code = 0; code < 0x7E; ++code) {
    const float low = e4m3_to_float(static_cast<std::uint8_t>(code));
    const float high = e4m3_to_float(static_cast<std::uint8_t>(code + 1));
    const float middle = 0.5f * (low + high);
    EXPECT_EQ(e4m3_from_float(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(e4m3_from_float(std::nextafter(middle, 0.0f)), code) << code;
    EXPECT_EQ(e4m3_from_float(std::nextafter(middle, kInf)), code + 1) << code;
    EXPECT_EQ(e4m3_from_float(-middle), 0x80 | (code % 2 == 0 ? code : code + 1)) << code;
  }
}

TEST(E4m3, AgreesWithASearchForTheNearestValue) {
  std::mt19937 random(7);
  for (int i = 0; i < 60000; ++i) {
    const float anywhere = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    ASSERT_EQ(e4m3_from_float(anywhere), nearest_by_search(anywhere)) << anywhere;
    const float in_range =
        std::ldexp(static_cast<float>(random() >> 8), -24 + int(random() % 22) - 12);
    ASSERT_EQ(e4m3_from_float(in_range), nearest_by_search(in_range)) << in_range;
  }
}

TEST(F16, EveryCodeHasTheValueOfTheDefinitionAndSurvivesARoundTrip) {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float value = f16_to_float(bits);
    ASSERT_EQ(std::signbit(value), code >= 0x8000) << code;
    if ((code & 0x7C00) != 0x7C00) {
      ASSERT_EQ(value, value_by_definition(code, 5, 10, 15)) << code;
      ASSERT_EQ(f16_from_float(value), bits);
    } else if ((code & 0x3FF) == 0) {
      ASSERT_TRUE(std::isinf(value));
      ASSERT_EQ(f16_from_float(value), bits);
    } else {
      ASSERT_TRUE(std::isnan(value));
      ASSERT_EQ(f16_from_float(value), bits | 0x200) << "quiet, same sign and payload";
    }
  }
}

TEST(F16, MidpointsGoToTheEvenCode) {
  for (std::uint32_t code = 0; code < 0x7BFF; ++code) {
    const float low = f16_to_float(static_cast<std::uint16_t>(code));
    const float high = f16_to_float(static_cast<std::uint16_t>(code + 1));
    const float middle = 0.5f * (low + high);
    ASSERT_EQ(f16_from_float(middle), code % 2 == 0 ? code : code + 1);
    ASSERT_EQ(f16_from_float(std::nextafter(middle, 0.0f)), code);
    ASSERT_EQ(f16_from_float(std::nextafter(middle, kInf)), code + 1);
  }
}

TEST(F16, OverflowsToInfinityAtHalfAStep) {
  EXPECT_EQ(f16_from_float(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
  EXPECT_EQ(f16_from_float(65520.0f), 0x7C00);
  EXPECT_EQ(f16_from_float(-65520.0f), 0xFC00);
  EXPECT_EQ(f16_from_float(3e38f), 0x7C00);
  EXPECT_EQ(f16_from_float(0x1p-25f), 0x0000);
  EXPECT_EQ(f16_from_float(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
}

TEST(Bf16, EveryCodeIsTheUpperHalfOfAFloatAndSurvivesARoundTrip) {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    ASSERT_EQ(bits_of(bf16_to_float(bits)), code << 16);
    const bool nan = (code & 0x7FFF) > 0x7F80;
    ASSERT_EQ(bf16_from_float(bf16_to_float(bits)), nan ? bits | 0x40 : bits);
  }
}

TEST(Bf16, RoundsToNearestEvenAndOverflowsToInfinity) {
  for (std::uint32_t code = 0; code < 0x7F80; ++code) {
    const std::uint32_t middle = (code << 16) | 0x8000u;
    ASSERT_EQ(bf16_from_float(std::bit_cast<float>(middle)), code % 2 == 0 ? code : code + 1);
    ASSERT_EQ(bf16_from_float(std::bit_cast<float>(middle - 1)), code);
    ASSERT_EQ(bf16_from_float(std::bit_cast<float>(middle + 1)), code + 1);
  }
  EXPECT_EQ(bf16_from_float(std::numeric_limits<float>::max()), 0x7F80);
}

}  // namespace
}  // namespace kv8
