#include "formats/simd_codec.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <bit>
#include <numeric>
#include <random>
#include <vector>

#include "formats/float_formats.h"

namespace kv8 {
namespace {

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// Runs `check` once for every instruction set that this processor and this build have.
template <typename Check>
void for_each_target(const Check& check) {
  const std::int64_t supported = hwy::SupportedTargets();
  for (std::int64_t target = 1; target > 0 && target <= (std::int64_t{1} << 62); target <<= 1) {
    if ((supported & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    check();
    if (target == (std::int64_t{1} << 62)) break;
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

/// FP32 patterns: all exponents with mantissas on both sides of every rounding boundary that an
/// 8-bit or 16-bit format can have, and random ones.
std::vector<float> many_floats() {
  std::vector<float> values;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent) {
    for (std::uint32_t top = 0; top < 16; ++top) {
      for (const std::uint32_t low : {0u, 1u, 0x7FFFFu, 0xFFFu, 0x1000u, 0x1001u, 0x3000u, 0x7FFFu,
                                      0x40000u, 0x3FFFFu, 0x40001u}) {
        const std::uint32_t bits = (exponent << 23) | ((top << 19) ^ low);
        values.push_back(std::bit_cast<float>(bits));
        values.push_back(std::bit_cast<float>(bits | 0x80000000u));
      }
    }
  }
  std::mt19937 random(3);
  for (int i = 0; i < 200000; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  }
  return values;
}

TEST(SimdCodec, DecodesEverySixteenBitCodeWithTheScalarsBits) {
  std::vector<std::uint16_t> codes(65536);
  std::iota(codes.begin(), codes.end(), std::uint16_t{0});
  for_each_target([&] {
    std::vector<float> f16(codes.size()), bf16(codes.size());
    f16_to_float(codes.data(), f16.data(), codes.size());
    bf16_to_float(codes.data(), bf16.data(), codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      ASSERT_EQ(bits_of(f16[i]), bits_of(f16_to_float(codes[i]))) << i;
      ASSERT_EQ(bits_of(bf16[i]), bits_of(bf16_to_float(codes[i]))) << i;
    }
  });
}

TEST(SimdCodec, DecodesEveryE4m3Code) {
  std::vector<std::uint8_t> codes(256);
  std::iota(codes.begin(), codes.end(), std::uint8_t{0});
  for_each_target([&] {
    std::vector<float> values(codes.size());
    e4m3_to_float(codes.data(), values.data(), codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      ASSERT_EQ(bits_of(values[i]), bits_of(e4m3_to_float(codes[i]))) << i;
    }
  });
}

TEST(SimdCodec, EncodesWithTheScalarsBits) {
  const std::vector<float> values = many_floats();
  for_each_target([&] {
    std::vector<std::uint16_t> f16(values.size()), bf16(values.size());
    f16_from_float(values.data(), f16.data(), values.size());
    bf16_from_float(values.data(), bf16.data(), values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(f16[i], f16_from_float(values[i])) << std::hex << bits_of(values[i]);
      ASSERT_EQ(bf16[i], bf16_from_float(values[i])) << std::hex << bits_of(values[i]);
    }
    for (const float scale : {1.0f, 0.037f, 3e-5f, 448.0f, 1e-38f}) {
      std::vector<std::uint8_t> e4m3(values.size());
      e4m3_from_float(values.data(), scale, e4m3.data(), values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(e4m3[i], e4m3_from_float(values[i] / scale))
            << std::hex << bits_of(values[i]) << " / " << scale;
      }
    }
  });
}

TEST(SimdCodec, TouchesNothingOutsideOddLengthsAndUnalignedStarts) {
  std::vector<float> values(100);
  std::iota(values.begin(), values.end(), -37.25f);
  for (std::size_t count = 0; count < 70; ++count) {
    for (const std::size_t start : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
      std::vector<std::uint16_t> halves(100, 0xABCD);
      f16_from_float(values.data() + start, halves.data() + start, count);
      std::vector<std::uint8_t> bytes(100, 0xAB);
      e4m3_from_float(values.data() + start, 2.0f, bytes.data() + start, count);
      std::vector<float> back(100, -1.0f);
      f16_to_float(halves.data() + start, back.data() + start, count);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const bool inside = i >= start && i < start + count;
        ASSERT_EQ(halves[i], inside ? f16_from_float(values[i]) : 0xABCD);
        ASSERT_EQ(bytes[i], inside ? e4m3_from_float(values[i] / 2.0f) : 0xAB);
        ASSERT_EQ(back[i], inside ? f16_to_float(halves[i]) : -1.0f);
      }
    }
  }
}

}  // namespace
}  // namespace kv8
