// From KvWriteArgs to a kernel launch, and the tables that it needs.
#pragma once

#include <vector>

#include "base/result.h"
#include "cuda/kv_write/params.h"
#include "ops/rope.h"

struct CUstream_st;

namespace kv8 {

/// Cosines and sines of positions 0 .. positions - 1, [positions][head_dim / 2] each, rounded as
/// docs/numbers.md says. On the host: the device's FP32 functions round otherwise.
struct RopeAngleTable {
  std::vector<float> cos, sin;
};
RopeAngleTable make_rope_angles(const RopeTable& table, int positions);

/// Validates `args` and enqueues one kernel on `stream` (null: the default stream).
Status launch_kv_write(const KvWriteArgs& args, CUstream_st* stream);

}  // namespace kv8
