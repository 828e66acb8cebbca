// The conversions of one vector, for kernels that fuse them. Included once per Highway target.
// Bits are those of float_formats.h.
#include <hwy/highway.h>

#include <cstdint>

#if defined(KV8_FORMATS_SIMD_CODEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KV8_FORMATS_SIMD_CODEC_INL_H_
#undef KV8_FORMATS_SIMD_CODEC_INL_H_
#else
#define KV8_FORMATS_SIMD_CODEC_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kv8::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Highway emulates FP16 conversion where the instruction set has none, without all special values.
#undef KV8_NATIVE_F16
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2  // better targets have smaller numbers
#define KV8_NATIVE_F16 1
#else
#define KV8_NATIVE_F16 0
#endif

/// FP16 bits, one a lane of 16 bits, to FP32.
template <class DF, class V16>
HWY_INLINE hn::Vec<DF> f16_bits_to_float(DF df, V16 bits) {
#if KV8_NATIVE_F16
  const hn::Rebind<hwy::float16_t, DF> df16;
  return hn::PromoteTo(df, hn::BitCast(df16, bits));
#else
  const hn::RebindToUnsigned<DF> du;
  const auto wide = hn::PromoteTo(du, bits);
  const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x7FFFu)));
  const auto mantissa = hn::And(magnitude, hn::Set(du, 0x7FFFFFu));
  const auto scaled = hn::BitCast(du, hn::Mul(hn::BitCast(df, magnitude), hn::Set(df, 0x1p112f)));
  const auto is_special = hn::Gt(magnitude, hn::Set(du, 0x0F7FFFFFu));
  const auto quiet = hn::IfThenElseZero(hn::Gt(mantissa, hn::Zero(du)), hn::Set(du, 0x400000u));
  const auto special = hn::Or(hn::Or(mantissa, quiet), hn::Set(du, 0x7F800000u));
  return hn::BitCast(df, hn::Or(sign, hn::IfThenElse(is_special, special, scaled)));
#endif
}

template <class DF>
HWY_INLINE hn::Vec<DF> load_f16(DF df, const std::uint16_t* HWY_RESTRICT in) {
  const hn::Rebind<std::uint16_t, DF> du16;
  return f16_bits_to_float(df, hn::LoadU(du16, in));
}

template <class DF>
HWY_INLINE hn::Vec<DF> load_bf16(DF df, const std::uint16_t* HWY_RESTRICT in) {
  const hn::RebindToUnsigned<DF> du;
  const hn::Rebind<std::uint16_t, DF> du16;
  return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(du16, in))));
}

/// E4M3 codes to FP32, divided by 256: the codes' bits fit FP16's fields as they are, with an
/// exponent bias of 8 between the two, which callers fold into a scale.
template <class DF>
HWY_INLINE hn::Vec<DF> load_e4m3_div256(DF df, const std::uint8_t* HWY_RESTRICT in) {
  const hn::Rebind<std::int8_t, DF> di8;
  const hn::Rebind<std::int16_t, DF> di16;
  const hn::Rebind<std::uint16_t, DF> du16;
  // Sign and exponent, sign again between them; the mask removes it.
  const auto wide = hn::ShiftLeft<7>(
      hn::PromoteTo(di16, hn::LoadU(di8, reinterpret_cast<const std::int8_t*>(in))));
  const auto bits = hn::And(hn::BitCast(du16, wide), hn::Set(du16, std::uint16_t{0xBFFF}));
  // Only NaN's code carries into the bit that is free; with it the exponent is FP16's for NaN.
  const auto carry = hn::Add(bits, hn::Set(du16, std::uint16_t{0x0080}));
  const auto nan = hn::And(carry, hn::Set(du16, std::uint16_t{0x4000}));
  return f16_bits_to_float(df, hn::Or(bits, nan));
}

template <class DF>
HWY_INLINE hn::Vec<DF> load_e4m3(DF df, const std::uint8_t* HWY_RESTRICT in) {
  return hn::Mul(load_e4m3_div256(df, in), hn::Set(df, 256.0f));
}

/// `bits` without its last kShift bits, rounded to nearest even.
template <int kShift, class DU>
HWY_INLINE hn::Vec<DU> round_shift(DU du, hn::Vec<DU> bits) {
  const auto one = hn::Set(du, 1u);
  const auto odd = hn::And(hn::ShiftRight<kShift>(bits), one);
  return hn::ShiftRight<kShift>(hn::Add(hn::Add(bits, odd), hn::Set(du, (1u << (kShift - 1)) - 1)));
}

/// Units of the last place of `anchor`, rounded to nearest even.
template <class DF, class DU>
HWY_INLINE hn::Vec<DU> units_by_addition(DF df, DU du, hn::Vec<DU> magnitude, float anchor) {
  const auto base = hn::Set(df, anchor);
  return hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(df, magnitude), base)), hn::BitCast(du, base));
}

/// FP32 to E4M3 codes, in lanes of 32 bits.
template <class DF>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> e4m3_codes(DF df, hn::Vec<DF> value) {
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::BitCast(du, value);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
  const auto sign = hn::And(hn::ShiftRight<24>(bits), hn::Set(du, 0x80u));
  const auto subnormal = units_by_addition(df, du, magnitude, 16384.0f);
  const auto normal = hn::Sub(round_shift<20>(du, magnitude), hn::Set(du, (127u - 7u) << 3));
  const auto is_subnormal = hn::Lt(magnitude, hn::Set(du, 0x3C800000u));
  auto code = hn::IfThenElse(is_subnormal, subnormal, normal);
  code = hn::Or(hn::Min(code, hn::Set(du, 0x7Eu)), sign);
  const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7F800000u));
  return hn::IfThenElse(is_nan, hn::Set(du, 0x7Fu), code);
}

/// FP32 to FP16 bits, in lanes of 32 bits.
template <class DF>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> f16_codes(DF df, hn::Vec<DF> value) {
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::BitCast(du, value);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u));
  const auto subnormal = units_by_addition(df, du, magnitude, 0.5f);
  const auto normal = round_shift<13>(du, hn::Sub(magnitude, hn::Set(du, 112u << 23)));
  auto code = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000u)), subnormal, normal);
  code = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x477FEFFFu)), hn::Set(du, 0x7C00u), code);
  const auto payload = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 0x3FFu));
  const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7F800000u));
  code = hn::IfThenElse(is_nan, hn::Or(payload, hn::Set(du, 0x7E00u)), code);
  return hn::Or(code, sign);
}

/// FP32 to BF16 bits, in lanes of 32 bits.
template <class DF>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> bf16_codes(DF /*df*/, hn::Vec<DF> value) {
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::BitCast(du, value);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40u));
  const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7F800000u));
  return hn::IfThenElse(is_nan, quiet, round_shift<16>(du, bits));
}

template <class DF, class VU>
HWY_INLINE void store_low16(DF /*df*/, VU codes, std::uint16_t* HWY_RESTRICT out) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<std::uint16_t, DF> du16;
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di, codes)), du16, out);
}

template <class DF, class VU>
HWY_INLINE void store_low8(DF /*df*/, VU codes, std::uint8_t* HWY_RESTRICT out) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<std::uint8_t, DF> du8;
  hn::StoreU(hn::DemoteTo(du8, hn::BitCast(di, codes)), du8, out);
}

}  // namespace kv8::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
