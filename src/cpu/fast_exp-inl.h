// exp(x) for x <= 0 to about one unit in the last place, on one vector. Included once per target.
#include <hwy/highway.h>

#if defined(KV8_CPU_FAST_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KV8_CPU_FAST_EXP_INL_H_
#undef KV8_CPU_FAST_EXP_INL_H_
#else
#define KV8_CPU_FAST_EXP_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// exp(x) = 2^n * exp(r) with |r| <= ln(2) / 2, exp(r) by a polynomial. Zero below -87.3 (-inf
/// included), where the result would be subnormal; NaN stays NaN.
template <class DF>
HWY_INLINE hn::Vec<DF> exp_nonpositive(DF df, hn::Vec<DF> x) {
  const hn::RebindToSigned<DF> di;
  const auto lowest = hn::Set(df, -87.3f);
  const auto n = hn::NearestInt(hn::Mul(hn::Max(x, lowest), hn::Set(df, 1.44269504f)));
  const auto n_float = hn::ConvertTo(df, n);
  auto r = hn::NegMulAdd(n_float, hn::Set(df, 0.693359375f), x);  // ln(2), upper bits: exact
  r = hn::NegMulAdd(n_float, hn::Set(df, -2.12194440e-4f), r);
  auto y = hn::Set(df, 1.9875691500e-4f);
  y = hn::MulAdd(y, r, hn::Set(df, 1.3981999507e-3f));
  y = hn::MulAdd(y, r, hn::Set(df, 8.3334519073e-3f));
  y = hn::MulAdd(y, r, hn::Set(df, 4.1665795894e-2f));
  y = hn::MulAdd(y, r, hn::Set(df, 1.6666665459e-1f));
  y = hn::MulAdd(y, r, hn::Set(df, 5.0000001201e-1f));
  y = hn::Add(hn::MulAdd(hn::Mul(r, r), y, r), hn::Set(df, 1.0f));
  const auto power = hn::BitCast(df, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  return hn::IfThenZeroElse(hn::Lt(x, lowest), hn::Mul(y, power));
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
