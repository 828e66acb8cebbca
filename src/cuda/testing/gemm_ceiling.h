// What cuBLASLt reaches on given shapes.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "tensor/tensor.h"

namespace kv8::cuda_testing {

/// y [rows, out] = x [rows, in] * w [out, in]^T
struct GemmSize {
  std::int64_t rows = 0, in = 0, out = 0;
  auto operator<=>(const GemmSize&) const = default;
};

/// Seconds for all of them in turn: of each different size, the median time of the fastest of the
/// kernels that cuBLASLt proposes, operands in `dtype` (kF16 or kBF16) and random, FP32 sums.
Result<double> seconds_for_gemms(std::span<const GemmSize> sizes, DType dtype);

}  // namespace kv8::cuda_testing
