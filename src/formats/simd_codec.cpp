#include "formats/simd_codec.h"

#include "formats/float_formats.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "formats/simd_codec.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "formats/simd_codec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;

/// Whole vectors through `vector(index)`, the rest through `scalar(index)`.
template <class Vector, class Scalar>
HWY_INLINE void for_each_vector(std::size_t count, const Vector& vector, const Scalar& scalar) {
  const std::size_t lanes = hn::Lanes(DF());
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) vector(i);
  for (; i < count; ++i) scalar(i);
}

void f16_to_float_bulk(const std::uint16_t* in, float* out, std::size_t count) {
  for_each_vector(
      count, [&](std::size_t i) HWY_ATTR { hn::StoreU(load_f16(DF(), in + i), DF(), out + i); },
      [&](std::size_t i) { out[i] = f16_to_float(in[i]); });
}

void bf16_to_float_bulk(const std::uint16_t* in, float* out, std::size_t count) {
  for_each_vector(
      count, [&](std::size_t i) HWY_ATTR { hn::StoreU(load_bf16(DF(), in + i), DF(), out + i); },
      [&](std::size_t i) { out[i] = bf16_to_float(in[i]); });
}

void e4m3_to_float_bulk(const std::uint8_t* in, float* out, std::size_t count) {
  for_each_vector(
      count, [&](std::size_t i) HWY_ATTR { hn::StoreU(load_e4m3(DF(), in + i), DF(), out + i); },
      [&](std::size_t i) { out[i] = e4m3_to_float(in[i]); });
}

void f16_from_float_bulk(const float* in, std::uint16_t* out, std::size_t count) {
  for_each_vector(
      count,
      [&](std::size_t i)
          HWY_ATTR { store_low16(DF(), f16_codes(DF(), hn::LoadU(DF(), in + i)), out + i); },
      [&](std::size_t i) { out[i] = f16_from_float(in[i]); });
}

void bf16_from_float_bulk(const float* in, std::uint16_t* out, std::size_t count) {
  for_each_vector(
      count,
      [&](std::size_t i)
          HWY_ATTR { store_low16(DF(), bf16_codes(DF(), hn::LoadU(DF(), in + i)), out + i); },
      [&](std::size_t i) { out[i] = bf16_from_float(in[i]); });
}

void e4m3_from_float_bulk(const float* in, float scale, std::uint8_t* out, std::size_t count) {
  for_each_vector(
      count,
      [&](std::size_t i) HWY_ATTR {
        const auto scaled = hn::Div(hn::LoadU(DF(), in + i), hn::Set(DF(), scale));
        store_low8(DF(), e4m3_codes(DF(), scaled), out + i);
      },
      [&](std::size_t i) { out[i] = e4m3_from_float(in[i] / scale); });
}

}  // namespace kv8::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8 {

HWY_EXPORT(f16_to_float_bulk);
HWY_EXPORT(bf16_to_float_bulk);
HWY_EXPORT(e4m3_to_float_bulk);
HWY_EXPORT(f16_from_float_bulk);
HWY_EXPORT(bf16_from_float_bulk);
HWY_EXPORT(e4m3_from_float_bulk);

void f16_to_float(const std::uint16_t* in, float* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(f16_to_float_bulk)(in, out, count);
}
void bf16_to_float(const std::uint16_t* in, float* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(bf16_to_float_bulk)(in, out, count);
}
void e4m3_to_float(const std::uint8_t* in, float* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(e4m3_to_float_bulk)(in, out, count);
}
void f16_from_float(const float* in, std::uint16_t* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(f16_from_float_bulk)(in, out, count);
}
void bf16_from_float(const float* in, std::uint16_t* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(bf16_from_float_bulk)(in, out, count);
}
void e4m3_from_float(const float* in, float scale, std::uint8_t* out, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(e4m3_from_float_bulk)(in, scale, out, count);
}

}  // namespace kv8
#endif  // HWY_ONCE
