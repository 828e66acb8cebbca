#include "tensor/tensor.h"

#include <sys/mman.h>

#include <array>
#include <cstring>
#include <new>

#include "formats/float_formats.h"
#include "formats/simd_codec.h"

namespace kv8 {
namespace {

struct DTypeInfo {
  DType dtype;
  std::size_t size;
  std::string_view name;
};

constexpr std::array<DTypeInfo, 8> kDTypes = {{{DType::kF32, 4, "F32"},
                                               {DType::kF16, 2, "F16"},
                                               {DType::kBF16, 2, "BF16"},
                                               {DType::kF8E4M3, 1, "F8_E4M3"},
                                               {DType::kU8, 1, "U8"},
                                               {DType::kI32, 4, "I32"},
                                               {DType::kI64, 8, "I64"},
                                               {DType::kBool, 1, "BOOL"}}};

const DTypeInfo& info(DType dtype) {
  for (const auto& entry : kDTypes) {
    if (entry.dtype == dtype) return entry;
  }
  contract_failed(__FILE__, __LINE__, "dtype is one of DType's values",
                  fmt::format("{}", static_cast<int>(dtype)));
}

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::int64_t kMaxElements = std::int64_t{1} << 62;

/// A tensor of `dtype` and `shape` in memory of its own; `fill` writes the bytes.
template <typename Fill>
TensorView make_owned(DType dtype, Shape shape, std::size_t count, const Fill& fill) {
  auto memory = std::make_shared<Buffer>(count * dtype_size(dtype));
  fill(memory->data());
  TensorView result;
  result.dtype = dtype;
  result.shape = std::move(shape);
  result.bytes = {memory->data(), memory->size()};
  result.owner = std::move(memory);
  return result;
}

}  // namespace

std::size_t dtype_size(DType dtype) { return info(dtype).size; }

std::string_view dtype_name(DType dtype) { return info(dtype).name; }

Result<DType> dtype_from_name(std::string_view name) {
  for (const auto& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  return bad_input("unknown element type '{}' (known: F32, F16, BF16, F8_E4M3, U8, I32, I64, BOOL)",
                   name);
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Result<std::int64_t> checked_num_elements(const Shape& shape) {
  std::int64_t product = 1;
  bool too_many = false;
  bool empty = false;
  for (const std::int64_t dim : shape) {
    if (dim < 0) return bad_input("shape {} has a negative dimension", shape_text(shape));
    if (dim == 0) {
      empty = true;
    } else if (product > kMaxElements / dim) {
      too_many = true;
    } else {
      product *= dim;
    }
  }
  if (empty) return std::int64_t{0};
  if (too_many) return bad_input("shape {} has more than 2^62 elements", shape_text(shape));
  return product;
}

std::int64_t TensorView::num_elements() const {
  std::int64_t product = 1;
  for (const std::int64_t dim : shape) product *= dim;
  return product;
}

Buffer::Buffer(std::size_t bytes, bool zero) : size_(bytes) {
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  if (bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  // A whole number of lines, and never zero bytes, so that data() is always valid.
  const std::size_t rounded = (bytes / alignment + 1) * alignment;
  data_ = {static_cast<std::byte*>(::operator new (rounded, std::align_val_t{alignment})),
           Free{alignment}};
#ifdef MADV_HUGEPAGE
  if (alignment == kHugePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);  // a wish, no more
#endif
  if (zero) std::memset(data_.get(), 0, bytes);
}

void Buffer::Free::operator()(std::byte* memory) const {
  ::operator delete (memory, std::align_val_t{alignment});
}

Result<std::vector<float>> to_float(const TensorView& tensor) {
  const std::size_t count = static_cast<std::size_t>(KV8_TRY(checked_num_elements(tensor.shape)));
  if (tensor.bytes.size() / dtype_size(tensor.dtype) < count) {
    return bad_input("a tensor of shape {} and type {} has only {} bytes", shape_text(tensor.shape),
                     dtype_name(tensor.dtype), tensor.bytes.size());
  }
  std::vector<float> values(count);
  switch (tensor.dtype) {
    case DType::kF32:
      if (count != 0) std::memcpy(values.data(), tensor.bytes.data(), count * sizeof(float));
      return values;
    case DType::kF16:
      f16_to_float(tensor.data<std::uint16_t>(), values.data(), count);
      return values;
    case DType::kBF16:
      bf16_to_float(tensor.data<std::uint16_t>(), values.data(), count);
      return values;
    case DType::kF8E4M3:
      e4m3_to_float(tensor.data<std::uint8_t>(), values.data(), count);
      return values;
    default:
      return unsupported("elements of type {} are not numbers to convert to FP32",
                         dtype_name(tensor.dtype));
  }
}

Result<TensorView> convert(const TensorView& tensor, DType dtype) {
  if (tensor.dtype == dtype) return tensor;
  const std::vector<float> values = KV8_TRY(to_float(tensor));
  switch (dtype) {
    case DType::kF32:
      return tensor_from_floats(values, tensor.shape);
    case DType::kF16:
      return make_owned(dtype, tensor.shape, values.size(), [&](std::byte* out) {
        f16_from_float(values.data(), reinterpret_cast<std::uint16_t*>(out), values.size());
      });
    case DType::kBF16:
      return make_owned(dtype, tensor.shape, values.size(), [&](std::byte* out) {
        bf16_from_float(values.data(), reinterpret_cast<std::uint16_t*>(out), values.size());
      });
    default:
      return unsupported("conversion to {} (only F32, F16 and BF16)", dtype_name(dtype));
  }
}

TensorView tensor_from_floats(std::span<const float> values, Shape shape) {
  return tensor_from_bytes(DType::kF32, std::as_bytes(values), std::move(shape));
}

TensorView tensor_from_bytes(DType dtype, std::span<const std::byte> bytes, Shape shape) {
  const std::size_t count = bytes.size() / dtype_size(dtype);
  return make_owned(dtype, std::move(shape), count, [&](std::byte* out) {
    if (count != 0) std::memcpy(out, bytes.data(), count * dtype_size(dtype));
  });
}

}  // namespace kv8
