// What the memory of the GPU at hand can do at most.
#pragma once

#include "base/result.h"

namespace kv8::cuda_testing {

/// In 10^9 bytes a second: reading a buffer once with a plain kernel, and copying one (bytes read
/// and written both counted). Best of a few passes over buffers far larger than the L2 cache.
struct MemoryCeilings {
  double read_gb_s = 0, copy_gb_s = 0;
};
Result<MemoryCeilings> measure_memory();

}  // namespace kv8::cuda_testing
