// From SampleArgs to a kernel launch.
#pragma once

#include <cstddef>

#include "base/result.h"
#include "cuda/dense/sample/params.h"

struct CUstream_st;

namespace kv8 {

/// Bytes of device memory that launches of up to `rows` rows need, aligned to 16 bytes. Zeroed once
/// by the caller; every launch leaves it ready for the next one. Not shared by launches that may
/// overlap.
std::size_t sample_workspace_bytes(int rows);

/// Validates `args` and enqueues one kernel or four on `stream` (null: the default stream).
Status launch_sample(const SampleArgs& args, CUstream_st* stream);

}  // namespace kv8
