// Element types, shapes, views of memory that somebody else owns, and aligned buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8 {

enum class DType : std::uint8_t { kF32, kF16, kBF16, kF8E4M3, kU8, kI32, kI64, kBool };

/// Bytes of one element.
std::size_t dtype_size(DType dtype);
/// "F32", "F16", "BF16", "F8_E4M3", "U8", "I32", "I64", "BOOL": safetensors' spelling.
std::string_view dtype_name(DType dtype);
Result<DType> dtype_from_name(std::string_view name);

using Shape = std::vector<std::int64_t>;

/// "[2, 3]"
std::string shape_text(const Shape& shape);
/// Product of the dimensions, or an error if one is negative or the product exceeds 2^62.
Result<std::int64_t> checked_num_elements(const Shape& shape);

/// A typed view of row-major memory; `owner`, if set, keeps that memory alive.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;

  std::int64_t num_elements() const;
  template <typename T>
  const T* data() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

/// Memory aligned to 64 bytes; of two megabytes and more, in huge pages where the system has them.
/// Throws std::bad_alloc when there is none.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes, bool zero = false);
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_.get());
  }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    std::size_t alignment;
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

/// All elements as FP32. F32, F16, BF16 and F8_E4M3 only; other types are an error.
Result<std::vector<float>> to_float(const TensorView& tensor);
/// `tensor` with every element rounded to `dtype` (F32, F16 or BF16), in memory of its own;
/// the same view when the type already fits.
Result<TensorView> convert(const TensorView& tensor, DType dtype);
/// A view that owns a copy of `values` as F32.
TensorView tensor_from_floats(std::span<const float> values, Shape shape);
/// A view that owns a copy of `bytes`, the elements of `shape`.
TensorView tensor_from_bytes(DType dtype, std::span<const std::byte> bytes, Shape shape);

}  // namespace kv8
