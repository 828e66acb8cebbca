// Every block format twice: blocks packed here from chosen quants, with values from the formula in
// FP64, and random blocks against the Python package gguf (tools/golden/gguf_reference.py).
#include "io/gguf_types.h"

#include <gmock/gmock.h>

#include <random>

#include "formats/float_formats.h"
#include "io/gguf_testing.h"

namespace kv8::io {
namespace {

constexpr std::uint32_t kF32 = 0, kF16 = 1, kQ40 = 2, kQ41 = 3, kQ50 = 6, kQ51 = 7, kQ80 = 8,
                        kQ4K = 12, kQ5K = 13, kQ6K = 14, kBf16 = 30;

std::vector<float> decode(std::uint32_t type, const std::string& bytes, std::int64_t count) {
  GgufTensor tensor{"t", type, {count}, std::as_bytes(std::span(bytes))};
  const auto values = dequantize_gguf(tensor);
  EXPECT_TRUE(values.ok()) << values.error().message;
  return values.ok() ? *values : std::vector<float>();
}

std::string half(float value) { return raw(f16_from_float(value)); }

/// Random whole numbers in [min, max].
std::vector<int> random_ints(std::size_t count, int min, int max) {
  static std::mt19937 engine(7);
  std::uniform_int_distribution<int> distribution(min, max);
  std::vector<int> values(count);
  for (int& value : values) value = distribution(engine);
  return values;
}

/// Byte i: quant i below quant i + 16, four bits each.
std::string pack_nibbles(const std::vector<int>& quants) {
  std::string bytes;
  for (std::size_t i = 0; i < 16; ++i) {
    bytes += static_cast<char>((quants[i] & 15) + 16 * (quants[i + 16] & 15));
  }
  return bytes;
}

std::string pack_fifth_bits(const std::vector<int>& quants) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    if (quants[i] >= 16) bits += 1u << i;
  }
  return raw(bits);
}

void expect_values(const std::vector<float>& values, const std::vector<double>& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(values[i], static_cast<float>(expected[i])) << i;
  }
}

TEST(GgufTypes, PlainFloats) {
  EXPECT_THAT(decode(kF32, raw(1.5f) + raw(-3e38f), 2), ::testing::ElementsAre(1.5f, -3e38f));
  EXPECT_THAT(decode(kF16, half(1.5f) + half(-65504.0f), 2),
              ::testing::ElementsAre(1.5f, -65504.0f));
  EXPECT_THAT(decode(kBf16, raw(std::uint16_t{0x3FC0}) + raw(std::uint16_t{0xFF7F}), 2),
              ::testing::ElementsAre(1.5f, -3.3895314e38f));
}

TEST(GgufTypes, FourAndFiveBits) {
  const double d = -0.375, m = 2.5;
  const std::string scale = half(-0.375f), minimum = half(2.5f);
  const std::vector<int> four = random_ints(32, 0, 15), five = random_ints(32, 0, 31);
  std::vector<double> q40, q41, q50, q51;
  for (std::size_t i = 0; i < 32; ++i) {
    q40.push_back(d * (four[i] - 8));
    q41.push_back(d * four[i] + m);
    q50.push_back(d * (five[i] - 16));
    q51.push_back(d * five[i] + m);
  }
  expect_values(decode(kQ40, scale + pack_nibbles(four), 32), q40);
  expect_values(decode(kQ41, scale + minimum + pack_nibbles(four), 32), q41);
  expect_values(decode(kQ50, scale + pack_fifth_bits(five) + pack_nibbles(five), 32), q50);
  expect_values(decode(kQ51, scale + minimum + pack_fifth_bits(five) + pack_nibbles(five), 32),
                q51);
}

TEST(GgufTypes, EightBits) {
  std::string bytes = half(0.25f);
  std::vector<double> expected;
  for (const int quant : random_ints(32, -128, 127)) {
    bytes += static_cast<char>(quant);
    expected.push_back(0.25 * quant);
  }
  expect_values(decode(kQ80, bytes, 32), expected);
}

/// The 12 bytes of eight 6-bit scales and eight 6-bit minimums, from the bits' places: scale j < 4
/// is byte j's low six bits; scale j >= 4 has its low four bits in byte j + 4's low nibble, its
/// upper two on top of byte j - 4. Minimums likewise in bytes 4-7 and high nibbles.
std::string pack_group_scales(const std::vector<int>& scales, const std::vector<int>& minimums) {
  std::string bytes(12, '\0');
  for (std::size_t j = 0; j < 4; ++j) {
    bytes[j] = static_cast<char>(scales[j] + 64 * (scales[j + 4] / 16));
    bytes[j + 4] = static_cast<char>(minimums[j] + 64 * (minimums[j + 4] / 16));
    bytes[j + 8] = static_cast<char>(scales[j + 4] % 16 + 16 * (minimums[j + 4] % 16));
  }
  return bytes;
}

TEST(GgufTypes, KQuantsWithMinimums) {
  const double d = 0.0078125, dmin = 0.015625;
  for (const bool five_bits : {false, true}) {
    const auto scales = random_ints(8, 0, 63), minimums = random_ints(8, 0, 63);
    const auto quants = random_ints(256, 0, five_bits ? 31 : 15);
    std::string fifth(32, '\0'), nibbles(128, '\0');
    std::vector<double> expected;
    for (std::size_t i = 0; i < 256; ++i) {
      const std::size_t group = i / 32, at = i % 32;
      expected.push_back(d * scales[group] * quants[i] - dmin * minimums[group]);
      nibbles[group / 2 * 32 + at] =
          static_cast<char>(nibbles[group / 2 * 32 + at] | (quants[i] % 16) << (group % 2 * 4));
      fifth[at] = static_cast<char>(fifth[at] | (quants[i] / 16) << group);
    }
    const std::string head =
        half(0.0078125f) + half(0.015625f) + pack_group_scales(scales, minimums);
    expect_values(
        five_bits ? decode(kQ5K, head + fifth + nibbles, 256) : decode(kQ4K, head + nibbles, 256),
        expected);
  }
}

TEST(GgufTypes, SixBits) {
  const auto scales = random_ints(16, -128, 127), quants = random_ints(256, 0, 63);
  std::string low(128, '\0'), high(64, '\0'), packed;
  std::vector<double> expected;
  for (const int scale : scales) packed += static_cast<char>(scale);
  for (std::size_t i = 0; i < 256; ++i) {
    expected.push_back(0.5 * scales[i / 16] * (quants[i] - 32));
    const std::size_t half_block = i / 128, run = i % 128 / 32, at = i % 32;
    char& nibble = low[half_block * 64 + run % 2 * 32 + at];
    nibble = static_cast<char>(nibble | (quants[i] % 16) << (run / 2 * 4));
    char& pair = high[half_block * 32 + at];
    pair = static_cast<char>(pair | (quants[i] / 16) << (run * 2));
  }
  expect_values(decode(kQ6K, low + high + packed + half(0.5f), 256), expected);
}

TEST(GgufTypes, AgreesWithTheGgufPackage) {
  const auto golden = SafetensorsFile::open(KV8_TEST_DATA "/golden/gguf_blocks.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  for (const std::uint32_t number :
       {kF32, kF16, kBf16, kQ40, kQ41, kQ50, kQ51, kQ80, kQ4K, kQ5K, kQ6K}) {
    const GgmlType* type = find_ggml_type(number);
    ASSERT_NE(type, nullptr);
    const std::string name(type->name);
    const TensorView blocks = golden->tensor(name + ".blocks").value();
    const TensorView values = golden->tensor(name + ".values").value();
    const auto decoded = dequantize_gguf({name, number, values.shape, blocks.bytes});
    ASSERT_TRUE(decoded.ok()) << decoded.error().message;
    for (std::size_t i = 0; i < decoded->size(); ++i) {
      EXPECT_EQ((*decoded)[i], values.data<float>()[i]) << name << " " << i;
    }
  }
}

TEST(GgufTypes, RefusesWrongSizes) {
  const std::string bytes(36, '\0');
  const auto data = std::as_bytes(std::span(bytes));
  EXPECT_TRUE(dequantize_gguf({"t", kQ40, {64}, data}).ok());
  expect_error(dequantize_gguf({"t", kQ40, {32}, data}), {"tensor t", "Q4_0", "[32]", "36 bytes"});
  expect_error(dequantize_gguf({"t", kQ40, {64}, data.first(35)}), {"tensor t"});
  expect_error(dequantize_gguf({"t", kQ40, {65}, data}), {"tensor t"});
  expect_error(dequantize_gguf({"t", 16, {256}, data}), {"tensor t", "IQ2_XXS", "Q8_0"});
}

}  // namespace
}  // namespace kv8::io
