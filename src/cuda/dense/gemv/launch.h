// From GemvArgs to a kernel launch.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "cuda/dense/gemv/params.h"

struct CUstream_st;

namespace kv8 {

/// An `in` up to which `rows` rows can have their norm fused on the current device: x and the
/// norm's weights then lie in shared memory.
Result<int> gemv_max_norm_columns(int rows);

/// Validates `args` and enqueues one kernel on `stream` (null: the default stream).
Status launch_gemv(const GemvArgs& args, CUstream_st* stream);

}  // namespace kv8
