// What the memory of the GPU at hand can do at most, and how kernels are timed beside it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/result.h"

struct CUstream_st;

namespace kv8::cuda_bench {

/// Bytes a second, in units of 10^9: reading a buffer once with a plain kernel, and copying one (read
/// and written bytes both counted). Best of a few passes over buffers far larger than the L2 cache.
struct MemoryCeilings {
  double read_gb_s = 0, copy_gb_s = 0;
};
Result<MemoryCeilings> measure_memory();

/// Microseconds of one launch, L2 emptied before each: the median of CUDA-event pairs. Every entry of
/// `launches` is launched for `settle_ms` first, so that clocks settle, then all take turns.
struct TimingOptions {
  int repeats = 30;
  double settle_ms = 500;
};
Result<std::vector<double>> time_cold(const std::vector<std::function<Status()>>& launches,
                                      const TimingOptions& options);

/// "NVIDIA H200"
Result<std::string> device_name();

}  // namespace kv8::cuda_bench
