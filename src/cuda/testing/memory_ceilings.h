// What the memory of the GPU at hand can do at most.
#pragma once

#include <cstddef>

#include "base/result.h"
#include "cuda/testing/gpu_timer.h"

namespace kv8::cuda_testing {

/// In 10^9 bytes a second: reading a buffer once with a plain kernel, and copying one (bytes read
/// and written both counted). Best of a few passes over 4 GiB. `read_clean_gb_s`: of a read that
/// finds no dirty lines in L2, 2% more on an H100.
struct MemoryCeilings {
  double read_gb_s = 0, read_clean_gb_s = 0, copy_gb_s = 0;
};
Result<MemoryCeilings> measure_memory();

/// Median microseconds of reading `bytes` (whole MiB count) at `data` once with a plain kernel,
/// timed as the kernels under test are.
Result<double> time_plain_read(GpuTimer& timer, const void* data, std::size_t bytes, int repeats,
                               ColdCache cache);

}  // namespace kv8::cuda_testing
