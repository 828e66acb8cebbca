// Linear layers of few rows: dot products straight from the stored weights. A block of kFeatures
// weight rows is read from memory once and used for all rows of the batch, at most 8 at a time.
#include "cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_direct.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;

/// Weight rows taken together for `rows` activation rows: as many as keep the sums in registers.
constexpr int features_together(int rows) {
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3  // 16 registers
  return rows == 1 ? 8 : rows <= 3 ? 4 : 2;
#else
  return rows == 1 ? 8 : rows <= 4 ? 4 : 2;
#endif
}

inline float finish(const LinearParams& params, std::int64_t row, std::int64_t out, float sum) {
  if (params.bias.data != nullptr) {
    float bias = 0.0f;
    switch (params.bias.dtype) {
      case DType::kF32:
        bias = static_cast<const float*>(params.bias.data)[out];
        break;
      case DType::kF16:
        bias = f16_to_float(static_cast<const std::uint16_t*>(params.bias.data)[out]);
        break;
      default:
        bias = bf16_to_float(static_cast<const std::uint16_t*>(params.bias.data)[out]);
    }
    sum += bias;
  }
  if (params.residual != nullptr) sum += params.residual[row * params.out_features + out];
  return sum;
}

/// kRows rows from `row`, kFeatures features from `out`.
template <class Weights, int kRows, int kFeatures>
void dot_block(const LinearParams& params, std::int64_t row, std::int64_t out) {
  const DF df;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const float* HWY_RESTRICT x = params.x + row * params.in;
  const auto* HWY_RESTRICT weight =
      static_cast<const typename Weights::Element*>(params.weight.data) + out * params.in;
  hn::Vec<DF> sums[kFeatures][kRows];
  for (int f = 0; f < kFeatures; ++f) {
    for (int r = 0; r < kRows; ++r) sums[f][r] = hn::Zero(df);
  }
  std::int64_t i = 0;
  for (; i + lanes <= params.in; i += lanes) {
    hn::Vec<DF> activations[kRows];
    for (int r = 0; r < kRows; ++r) activations[r] = hn::LoadU(df, x + r * params.in + i);
    for (int f = 0; f < kFeatures; ++f) {
      const auto w = Weights::load(df, weight + f * params.in + i);
      for (int r = 0; r < kRows; ++r) sums[f][r] = hn::MulAdd(w, activations[r], sums[f][r]);
    }
  }
  for (int f = 0; f < kFeatures; ++f) {
    for (int r = 0; r < kRows; ++r) {
      float sum = hn::GetLane(hn::SumOfLanes(df, sums[f][r]));
      for (std::int64_t j = i; j < params.in; ++j) {
        sum += x[r * params.in + j] * Weights::scalar(weight[f * params.in + j]);
      }
      params.out[(row + r) * params.out_features + out + f] = finish(params, row + r, out + f, sum);
    }
  }
}

template <class Weights, int kRows>
HWY_INLINE void features(const LinearParams& params, std::int64_t row, std::int64_t begin,
                         std::int64_t end) {
  constexpr int kTogether = features_together(kRows);
  std::int64_t out = begin;
  for (; out + kTogether <= end; out += kTogether) {
    dot_block<Weights, kRows, kTogether>(params, row, out);
  }
  for (; out < end; ++out) dot_block<Weights, kRows, 1>(params, row, out);
}

template <class Weights>
void features_of_rows(const LinearParams& params, std::int64_t row, std::int64_t rows,
                      std::int64_t begin, std::int64_t end) {
  switch (rows) {
    case 1:
      return features<Weights, 1>(params, row, begin, end);
    case 2:
      return features<Weights, 2>(params, row, begin, end);
    case 3:
      return features<Weights, 3>(params, row, begin, end);
    case 4:
      return features<Weights, 4>(params, row, begin, end);
    case 5:
      return features<Weights, 5>(params, row, begin, end);
    case 6:
      return features<Weights, 6>(params, row, begin, end);
    case 7:
      return features<Weights, 7>(params, row, begin, end);
    default:
      return features<Weights, 8>(params, row, begin, end);
  }
}

void linear_direct_target(const LinearParams& params, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kRowsTogether = 8;
  constexpr std::int64_t kFeatureBlock = 8;  // stays in the first-level cache between rows
  const std::int64_t step = params.rows <= kRowsTogether ? end - begin : kFeatureBlock;
  with_weights(params.weight.dtype, [&](auto kind) HWY_ATTR {
    for (std::int64_t out = begin; out < end; out += step) {
      const std::int64_t block_end = std::min(end, out + step);
      for (std::int64_t row = 0; row < params.rows; row += kRowsTogether) {
        features_of_rows<decltype(kind)>(params, row, std::min(kRowsTogether, params.rows - row),
                                         out, block_end);
      }
    }
  });
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8::cpu {

HWY_EXPORT(linear_direct_target);

void linear_direct(const LinearParams& params, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(linear_direct_target)(params, begin, end);
}

}  // namespace kv8::cpu
#endif  // HWY_ONCE
