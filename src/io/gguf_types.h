// ggml's tensor types: sizes and decoders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kv8::io {

/// A type that kv8 reads: values in blocks of `block_values`, `block_bytes` each.
struct GgmlType {
  std::uint32_t number;
  std::string_view name;
  std::size_t block_values, block_bytes;
  /// Writes the values of one block to `out`.
  void (*decode)(const std::byte* block, float* out);
};

/// nullptr for a type that kv8 does not read.
const GgmlType* find_ggml_type(std::uint32_t number);
/// "type Q2_K is not supported; supported are F32, …"
std::string unsupported_ggml_type(std::uint32_t number);

}  // namespace kv8::io
