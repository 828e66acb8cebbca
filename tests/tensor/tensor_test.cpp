#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "formats/float_formats.h"

namespace kv8 {
namespace {

template <typename T>
TensorView view_of(const std::vector<T>& values, DType dtype, Shape shape) {
  TensorView view;
  view.dtype = dtype;
  view.shape = std::move(shape);
  view.bytes = std::as_bytes(std::span(values));
  return view;
}

TEST(DTypes, NamesAndSizes) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kU8,
                            DType::kI32, DType::kI64, DType::kBool}) {
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)).value(), dtype);
  }
  EXPECT_EQ(dtype_size(DType::kI64), 8u);
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kF8E4M3), 1u);
  EXPECT_FALSE(dtype_from_name("f16").ok());
  EXPECT_FALSE(dtype_from_name("").ok());
}

TEST(Shapes, CountsElementsAndRefusesWhatOverflows) {
  EXPECT_EQ(checked_num_elements({}).value(), 1);
  EXPECT_EQ(checked_num_elements({2, 3, 5}).value(), 30);
  EXPECT_EQ(checked_num_elements({std::int64_t{1} << 62}).value(), std::int64_t{1} << 62);
  EXPECT_EQ(checked_num_elements({std::int64_t{1} << 40, 0, std::int64_t{1} << 40}).value(), 0);
  EXPECT_FALSE(checked_num_elements({std::int64_t{1} << 32, std::int64_t{1} << 31}).ok());
  EXPECT_FALSE(checked_num_elements({std::numeric_limits<std::int64_t>::max(), 2}).ok());
  EXPECT_FALSE(checked_num_elements({4, -1}).ok());
  EXPECT_FALSE(checked_num_elements({0, -1}).ok());
  EXPECT_EQ(shape_text({2, 3}), "[2, 3]");
  EXPECT_EQ(shape_text({}), "[]");
}

TEST(Buffers, AreAlignedAndZeroedOnRequest) {
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{4097}}) {
    Buffer buffer(bytes, true);
    EXPECT_EQ(buffer.size(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0u);
    for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(buffer.data()[i], std::byte{0});
  }
  EXPECT_THROW(Buffer(SIZE_MAX), std::bad_alloc);
  EXPECT_EQ(Buffer().data(), nullptr);
}

TEST(ToFloat, ReadsEveryFloatType) {
  const std::vector<std::uint16_t> halves = {0x3C00, 0xC000, 0x0001};
  EXPECT_EQ(to_float(view_of(halves, DType::kF16, {3})).value(),
            (std::vector<float>{1.0f, -2.0f, 0x1p-24f}));
  EXPECT_EQ(to_float(view_of(halves, DType::kBF16, {1, 3})).value(),
            (std::vector<float>{bf16_to_float(0x3C00), bf16_to_float(0xC000), bf16_to_float(1)}));
  const std::vector<std::uint8_t> bytes = {0x7E, 0x81};
  EXPECT_EQ(to_float(view_of(bytes, DType::kF8E4M3, {2})).value(),
            (std::vector<float>{448.0f, -0x1p-9f}));
  const std::vector<float> floats = {1.5f, -2.5f};
  EXPECT_EQ(to_float(view_of(floats, DType::kF32, {2})).value(), floats);
  EXPECT_TRUE(to_float(view_of(floats, DType::kF32, {0, 7})).value().empty());
}

TEST(ToFloat, RefusesIntegersAndViewsThatAreTooShort) {
  const std::vector<std::uint8_t> bytes = {1, 2};
  EXPECT_FALSE(to_float(view_of(bytes, DType::kU8, {2})).ok());
  EXPECT_FALSE(to_float(view_of(bytes, DType::kF8E4M3, {3})).ok());
  EXPECT_FALSE(to_float(view_of(bytes, DType::kF32, {1})).ok());
  EXPECT_FALSE(to_float(view_of(bytes, DType::kF8E4M3, {-2})).ok());
}

TEST(Convert, RoundsIntoMemoryOfItsOwn) {
  const std::vector<float> floats = {1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f, 70000.0f};
  const TensorView source = view_of(floats, DType::kF32, {3, 1});
  const TensorView half = convert(source, DType::kF16).value();
  EXPECT_EQ(half.shape, source.shape);
  EXPECT_EQ(half.bytes.size(), 6u);
  EXPECT_EQ(half.data<std::uint16_t>()[0], 0x3C00);
  EXPECT_EQ(half.data<std::uint16_t>()[1], 0x3C02);
  EXPECT_EQ(half.data<std::uint16_t>()[2], 0x7C00);
  const TensorView brain = convert(half, DType::kBF16).value();
  EXPECT_EQ(brain.data<std::uint16_t>()[0], 0x3F80);
  EXPECT_EQ(convert(source, DType::kF32)->bytes.data(), source.bytes.data());
  EXPECT_FALSE(convert(source, DType::kU8).ok());
}

}  // namespace
}  // namespace kv8
