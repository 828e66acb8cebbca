// Linear layers of few rows: dot products straight from the stored weights. Each weight is read
// from memory once and used for all rows of the batch, at most 8 at a time.
//
// Weight rows are taken one after the other: this reads memory in one ascending stream, which ran
// at 24 GB/s where 2, 4 or 8 rows side by side ran at 11 (one Zen 4 core, rows of 1152 bytes, with
// or without software prefetching).
#include <type_traits>

#include "cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_direct.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "cpu/prefetch-inl.h"
#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;

/// Sums that a dot product is split into, so that the multiply-adds of kRows rows together hide
/// their latency.
constexpr int sums_per_row(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 2 : 1; }

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

/// How far ahead of its use the weight stream of a single row is fetched.
constexpr std::int64_t kPrefetchAhead = 4096;

/// The dot products of one weight row and kRows rows from `row`.
template <class Weights, int kRows>
HWY_INLINE void dot_rows(const LinearParams& params, std::int64_t row, std::int64_t out) {
  const DF df;
  constexpr int kSums = sums_per_row(kRows);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const float* HWY_RESTRICT x = params.x + row * params.in;
  const auto* HWY_RESTRICT weight =
      static_cast<const typename Weights::Element*>(params.weight.data) + out * params.in;
  hn::Vec<DF> sums[kRows][kSums];
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kSums; ++s) sums[r][s] = hn::Zero(df);
  }
  std::int64_t i = 0;
  for (; i + kSums * lanes <= params.in; i += kSums * lanes) {
    // BF16 and FP32 keep up with memory as they are, and were 2 to 9% slower with prefetching.
    if constexpr (kRows == 1 && std::is_same_v<Weights, F16Weights>) {
      prefetch_bytes(weight + i, static_cast<std::int64_t>(kSums * lanes * sizeof(*weight)),
                     kPrefetchAhead);
    }
    for (int s = 0; s < kSums; ++s) {
      const auto w = Weights::load(df, weight + i + s * lanes);
      for (int r = 0; r < kRows; ++r) {
        sums[r][s] = hn::MulAdd(w, hn::LoadU(df, x + r * params.in + i + s * lanes), sums[r][s]);
      }
    }
  }
  for (; i + lanes <= params.in; i += lanes) {
    const auto w = Weights::load(df, weight + i);
    for (int r = 0; r < kRows; ++r) {
      sums[r][0] = hn::MulAdd(w, hn::LoadU(df, x + r * params.in + i), sums[r][0]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int s = 1; s < kSums; ++s) sums[r][0] = hn::Add(sums[r][0], sums[r][s]);
    float sum = hn::GetLane(hn::SumOfLanes(df, sums[r][0]));
    for (std::int64_t j = i; j < params.in; ++j) {
      sum += x[r * params.in + j] * Weights::scalar(weight[j]);
    }
    params.out[(row + r) * params.out_features + out] = finish(params, row + r, out, sum);
  }
}

template <class Weights, int kRows>
HWY_INLINE void features(const LinearParams& params, std::int64_t row, std::int64_t begin,
                         std::int64_t end) {
  for (std::int64_t out = begin; out < end; ++out) dot_rows<Weights, kRows>(params, row, out);
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
