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

/// With y = RN(1 / scale), RN(x y) and RN(x / scale) are within 2^-22 of each other and lead to
/// different codes only if they lie on different sides of a midpoint between two codes. Midpoints
/// are odd multiples m, 1 to 31, of powers of two, and x has at most 11 significant bits: looks at
/// the two such x next to each m scale.
KvScale make_kv_scale(float scale);

/// Validates `args` and enqueues one kernel on `stream` (null: the default stream).
Status launch_kv_write(const KvWriteArgs& args, CUstream_st* stream);

}  // namespace kv8
