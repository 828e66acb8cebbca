// From GemvArgs to a kernel launch.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "cuda/dense/gemv/params.h"

struct CUstream_st;

namespace kv8 {

/// An `in` up to which the norm of `rows` rows is better fused than in a kernel of its own, on the
/// current device. 0: never. launch_gemv takes whatever fits into shared memory.
Result<int> gemv_max_norm_columns(int rows);

/// Validates `args` and enqueues one kernel on `stream` (null: the default stream).
Status launch_gemv(const GemvArgs& args, CUstream_st* stream);

}  // namespace kv8
