// RMSNorm, SwiGLU and the conversion of weights.
#include <cmath>

#include "cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/elementwise.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "cpu/fast_exp-inl.h"
#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;

float sum_of_squares(const float* x, std::int64_t count) {
  const DF df;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  auto sum0 = hn::Zero(df), sum1 = hn::Zero(df);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto a = hn::LoadU(df, x + i), b = hn::LoadU(df, x + i + lanes);
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(df, hn::Add(sum0, sum1)));
  for (; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

template <class Weights>
void rms_norm_row(const float* x, const typename Weights::Element* weight, float* out,
                  std::int64_t cols, float eps) {
  const DF df;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const float mean = sum_of_squares(x, cols) / static_cast<float>(cols);
  const float inverse = 1.0f / std::sqrt(mean + eps);
  const auto scale = hn::Set(df, inverse);
  std::int64_t i = 0;
  for (; i + lanes <= cols; i += lanes) {
    const auto scaled = hn::Mul(hn::LoadU(df, x + i), scale);
    hn::StoreU(hn::Mul(scaled, Weights::load(df, weight + i)), df, out + i);
  }
  for (; i < cols; ++i) out[i] = x[i] * inverse * Weights::scalar(weight[i]);
}

void rms_norm_rows_target(const RmsNormParams& params, std::int64_t begin, std::int64_t end) {
  with_weights(params.weight.dtype, [&](auto kind) HWY_ATTR {
    using Weights = decltype(kind);
    const auto* weight = static_cast<const typename Weights::Element*>(params.weight.data);
    for (std::int64_t row = begin; row < end; ++row) {
      rms_norm_row<Weights>(params.x + row * params.cols, weight, params.out + row * params.cols,
                            params.cols, params.eps);
    }
  });
}

/// silu(x) through exp(-|x|), which cannot overflow.
template <class D>
HWY_INLINE hn::Vec<D> silu(D df, hn::Vec<D> x) {
  const auto e = exp_nonpositive(df, hn::Neg(hn::Abs(x)));
  const auto one = hn::Set(df, 1.0f);
  const auto numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(df)), e, one);
  return hn::Div(hn::Mul(x, numerator), hn::Add(one, e));
}

void swiglu_rows_target(const SwiGluParams& params, std::int64_t begin, std::int64_t end) {
  const DF df;
  const hn::CappedTag<float, 1> d1;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  for (std::int64_t row = begin; row < end; ++row) {
    const float* gate = params.gate_up + row * 2 * params.cols;
    const float* up = gate + params.cols;
    float* out = params.out + row * params.cols;
    std::int64_t i = 0;
    for (; i + lanes <= params.cols; i += lanes) {
      hn::StoreU(hn::Mul(silu(df, hn::LoadU(df, gate + i)), hn::LoadU(df, up + i)), df, out + i);
    }
    for (; i < params.cols; ++i) {
      hn::StoreU(hn::Mul(silu(d1, hn::LoadU(d1, gate + i)), hn::LoadU(d1, up + i)), d1, out + i);
    }
  }
}

void weights_to_float_target(const WeightView& weight, std::int64_t offset, std::int64_t count,
                             float* out) {
  with_weights(weight.dtype, [&](auto kind) HWY_ATTR {
    using Weights = decltype(kind);
    const DF df;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
    const auto* from = static_cast<const typename Weights::Element*>(weight.data) + offset;
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) hn::StoreU(Weights::load(df, from + i), df, out + i);
    for (; i < count; ++i) out[i] = Weights::scalar(from[i]);
  });
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8::cpu {

HWY_EXPORT(rms_norm_rows_target);
HWY_EXPORT(swiglu_rows_target);
HWY_EXPORT(weights_to_float_target);

void rms_norm_rows(const RmsNormParams& params, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(rms_norm_rows_target)(params, begin, end);
}
void swiglu_rows(const SwiGluParams& params, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_rows_target)(params, begin, end);
}
void weights_to_float(const WeightView& weight, std::int64_t offset, std::int64_t count,
                      float* out) {
  HWY_DYNAMIC_DISPATCH(weights_to_float_target)(weight, offset, count, out);
}

void rms_norm(Workspace& workspace, const RmsNormParams& params) {
  workspace.pool().parallel_for(params.rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    rms_norm_rows(params, begin, end);
  });
}

void swiglu(Workspace& workspace, const SwiGluParams& params) {
  workspace.pool().parallel_for(params.rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    swiglu_rows(params, begin, end);
  });
}

}  // namespace kv8::cpu
#endif  // HWY_ONCE
