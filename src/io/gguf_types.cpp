#include "io/gguf_types.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "formats/float_formats.h"
#include "io/gguf.h"

namespace kv8::io {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is little-endian");

constexpr std::size_t kBlock = 32;        // values of a Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 block
constexpr std::size_t kSuperBlock = 256;  // values of a Q4_K, Q5_K, Q6_K block

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float load_f16(const std::byte* from) { return f16_to_float(load<std::uint16_t>(from)); }
int byte_at(const std::byte* from, std::size_t index) { return std::to_integer<int>(from[index]); }
int low_nibble(const std::byte* from, std::size_t index) { return byte_at(from, index) & 15; }
int high_nibble(const std::byte* from, std::size_t index) { return byte_at(from, index) >> 4; }

void decode_f32(const std::byte* block, float* out) { *out = load<float>(block); }
void decode_f16(const std::byte* block, float* out) { *out = load_f16(block); }
void decode_bf16(const std::byte* block, float* out) {
  *out = bf16_to_float(load<std::uint16_t>(block));
}

// In all of these d * q is exact in FP32: 11 bits of an FP16 scale, at most 6 of a block scale and
// at most 6 of a quant leave one rounding, that of the sum with the minimum.

/// d, 16 bytes of nibbles: d * (q - 8). Value i and i + 16 share byte i.
void decode_q4_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const std::byte* quants = block + 2;
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    out[i] = d * static_cast<float>(low_nibble(quants, i) - 8);
    out[i + kBlock / 2] = d * static_cast<float>(high_nibble(quants, i) - 8);
  }
}

/// d, m, 16 bytes of nibbles: d * q + m
void decode_q4_1(const std::byte* block, float* out) {
  const float d = load_f16(block), m = load_f16(block + 2);
  const std::byte* quants = block + 4;
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    out[i] = d * static_cast<float>(low_nibble(quants, i)) + m;
    out[i + kBlock / 2] = d * static_cast<float>(high_nibble(quants, i)) + m;
  }
}

/// Fifth bits: bit i of `high` belongs to value i.
int fifth_bit(std::uint32_t high, std::size_t index) {
  return static_cast<int>((high >> index) & 1u) << 4;
}

/// d, 32 fifth bits, 16 bytes of nibbles: d * (q - 16)
void decode_q5_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const auto high = load<std::uint32_t>(block + 2);
  const std::byte* quants = block + 6;
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    const std::size_t j = i + kBlock / 2;
    out[i] = d * static_cast<float>((low_nibble(quants, i) | fifth_bit(high, i)) - 16);
    out[j] = d * static_cast<float>((high_nibble(quants, i) | fifth_bit(high, j)) - 16);
  }
}

/// d, m, 32 fifth bits, 16 bytes of nibbles: d * q + m
void decode_q5_1(const std::byte* block, float* out) {
  const float d = load_f16(block), m = load_f16(block + 2);
  const auto high = load<std::uint32_t>(block + 4);
  const std::byte* quants = block + 8;
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    const std::size_t j = i + kBlock / 2;
    out[i] = d * static_cast<float>(low_nibble(quants, i) | fifth_bit(high, i)) + m;
    out[j] = d * static_cast<float>(high_nibble(quants, i) | fifth_bit(high, j)) + m;
  }
}

/// d, 32 signed bytes: d * q
void decode_q8_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (std::size_t i = 0; i < kBlock; ++i) {
    out[i] = d * static_cast<float>(load<std::int8_t>(block + 2 + i));
  }
}

/// Scale and minimum of one of the eight 32-value groups of a Q4_K or Q5_K block: 6 bits each,
/// packed in 12 bytes. Groups 0-3 have theirs in the low bits of bytes 0-3 and 4-7; groups 4-7 in
/// the nibbles of bytes 8-11, with their upper two bits on top of bytes 0-7.
struct GroupScale {
  float scale, minimum;
};
GroupScale group_scale(const std::byte* packed, std::size_t group) {
  if (group < 4) {
    return {static_cast<float>(byte_at(packed, group) & 63),
            static_cast<float>(byte_at(packed, group + 4) & 63)};
  }
  const int scale = low_nibble(packed, group + 4) | (byte_at(packed, group - 4) >> 6) << 4;
  const int minimum = high_nibble(packed, group + 4) | (byte_at(packed, group) >> 6) << 4;
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

/// d, dmin, group scales, [fifth bits,] nibbles: d * scale * q - dmin * minimum. Each 32 bytes of
/// nibbles hold two groups: low nibbles the even one, high nibbles the odd one. Byte i of the fifth
/// bits has bit g for value i of group g.
void decode_k4_or_k5(const std::byte* block, const std::byte* fifth, const std::byte* nibbles,
                     float* out) {
  const float d = load_f16(block), dmin = load_f16(block + 2);
  for (std::size_t group = 0; group < kSuperBlock / kBlock; ++group) {
    const GroupScale packed = group_scale(block + 4, group);
    const float scale = d * packed.scale, minimum = dmin * packed.minimum;
    const std::byte* quants = nibbles + group / 2 * kBlock;
    for (std::size_t i = 0; i < kBlock; ++i) {
      int quant = group % 2 == 0 ? low_nibble(quants, i) : high_nibble(quants, i);
      if (fifth != nullptr) quant |= ((byte_at(fifth, i) >> group) & 1) << 4;
      out[group * kBlock + i] = scale * static_cast<float>(quant) - minimum;
    }
  }
}

void decode_q4_k(const std::byte* block, float* out) {
  decode_k4_or_k5(block, nullptr, block + 16, out);
}
void decode_q5_k(const std::byte* block, float* out) {
  decode_k4_or_k5(block, block + 16, block + 48, out);
}

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales (one for 16 values), d:
/// d * scale * (q - 32). Each half of 128 values is four runs of 32: run r has the low (r < 2) or
/// high nibbles of bytes 32 * (r % 2) on, and bits 2r of the half's 32 bytes of bit pairs.
void decode_q6_k(const std::byte* block, float* out) {
  const float d = load_f16(block + 208);
  for (std::size_t half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    for (std::size_t i = 0; i < 128; ++i) {
      const std::size_t run = i / 32, at = i % 32;
      const std::size_t byte = run % 2 * 32 + at;
      const int nibble = run < 2 ? low_nibble(low, byte) : high_nibble(low, byte);
      const int quant = nibble | ((byte_at(high, at) >> (2 * run)) & 3) << 4;
      const float scale = load<std::int8_t>(block + 192 + half * 8 + i / 16);
      out[half * 128 + i] = d * scale * static_cast<float>(quant - 32);
    }
  }
}

constexpr std::array<GgmlType, 11> kTypes = {{
    {0, "F32", 1, 4, decode_f32},
    {1, "F16", 1, 2, decode_f16},
    {30, "BF16", 1, 2, decode_bf16},
    {2, "Q4_0", kBlock, 18, decode_q4_0},
    {3, "Q4_1", kBlock, 20, decode_q4_1},
    {6, "Q5_0", kBlock, 22, decode_q5_0},
    {7, "Q5_1", kBlock, 24, decode_q5_1},
    {8, "Q8_0", kBlock, 34, decode_q8_0},
    {12, "Q4_K", kSuperBlock, 144, decode_q4_k},
    {13, "Q5_K", kSuperBlock, 176, decode_q5_k},
    {14, "Q6_K", kSuperBlock, 210, decode_q6_k},
}};

/// Names of types that kv8 does not read, for messages.
constexpr std::array<std::pair<std::uint32_t, std::string_view>, 17> kOtherNames = {
    {{9, "Q8_1"},
     {10, "Q2_K"},
     {11, "Q3_K"},
     {15, "Q8_K"},
     {16, "IQ2_XXS"},
     {17, "IQ2_XS"},
     {18, "IQ3_XXS"},
     {19, "IQ1_S"},
     {20, "IQ4_NL"},
     {21, "IQ3_S"},
     {22, "IQ2_S"},
     {23, "IQ4_XS"},
     {29, "IQ1_M"},
     {34, "TQ1_0"},
     {35, "TQ2_0"},
     {28, "F64"},
     {39, "MXFP4"}}};

}  // namespace

const GgmlType* find_ggml_type(std::uint32_t number) {
  for (const GgmlType& type : kTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

std::string unsupported_ggml_type(std::uint32_t number) {
  std::string name = fmt::format("number {}", number);
  for (const auto& [other, text] : kOtherNames) {
    if (other == number) name = text;
  }
  std::string supported;
  for (const GgmlType& type : kTypes) {
    supported += fmt::format("{}{}", supported.empty() ? "" : ", ", type.name);
  }
  return fmt::format("type {} is not supported; supported are {}", name, supported);
}

Result<std::vector<float>> dequantize_gguf(const GgufTensor& tensor) {
  const GgmlType* type = find_ggml_type(tensor.type);
  if (type == nullptr) {
    return unsupported("tensor {}: {}", tensor.name, unsupported_ggml_type(tensor.type));
  }
  const auto elements = static_cast<std::uint64_t>(KV8_TRY(checked_num_elements(tensor.shape)));
  const std::uint64_t blocks = tensor.bytes.size() / type->block_bytes;
  if (tensor.bytes.size() % type->block_bytes != 0 || elements % type->block_values != 0 ||
      elements / type->block_values != blocks) {
    return bad_input("tensor {}: {} of shape {} does not fit {} bytes", tensor.name, type->name,
                     shape_text(tensor.shape), tensor.bytes.size());
  }
  std::vector<float> values(elements);
  for (std::uint64_t i = 0; i < blocks; ++i) {
    type->decode(tensor.bytes.data() + i * type->block_bytes,
                 values.data() + i * type->block_values);
  }
  return values;
}

}  // namespace kv8::io
