// Loading weights of any type as FP32 vectors. Included once per Highway target.
#include <hwy/highway.h>

#include "formats/float_formats.h"
#include "formats/simd_codec-inl.h"
#include "ops/params.h"

#if defined(KV8_CPU_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KV8_CPU_WEIGHTS_INL_H_
#undef KV8_CPU_WEIGHTS_INL_H_
#else
#define KV8_CPU_WEIGHTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace codec = kv8::HWY_NAMESPACE;

struct F32Weights {
  using Element = float;
  template <class DF>
  static HWY_INLINE hn::Vec<DF> load(DF df, const float* HWY_RESTRICT from) {
    return hn::LoadU(df, from);
  }
  static float scalar(float value) { return value; }
};
struct F16Weights {
  using Element = std::uint16_t;
  template <class DF>
  static HWY_INLINE hn::Vec<DF> load(DF df, const std::uint16_t* HWY_RESTRICT from) {
    return codec::load_f16(df, from);
  }
  static float scalar(std::uint16_t bits) { return f16_to_float(bits); }
};
struct Bf16Weights {
  using Element = std::uint16_t;
  template <class DF>
  static HWY_INLINE hn::Vec<DF> load(DF df, const std::uint16_t* HWY_RESTRICT from) {
    return codec::load_bf16(df, from);
  }
  static float scalar(std::uint16_t bits) { return bf16_to_float(bits); }
};

/// Calls `body(kind)` with the struct above that fits `dtype`.
template <class Body>
HWY_INLINE void with_weights(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(F32Weights());
    case DType::kF16:
      return body(F16Weights());
    case DType::kBF16:
      return body(Bf16Weights());
    default:
      KV8_CHECK(false, "weights of type {}", dtype_name(dtype));
  }
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
