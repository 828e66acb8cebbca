// Timing of launches the way the benchmarks report it: events around each launch, cold L2.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::cuda_testing {

/// Name of the current device ("NVIDIA H200"), or an error that says there is none.
Result<std::string> device_name();

/// Whether a GPU that runs the Hopper kernels is there.
bool has_hopper();

/// What a cold L2 cache is full of when a timed launch begins. Dirty lines have to be written to
/// memory while the launch runs: up to 50 MB on an H100, 14 us of it, that are not its own.
enum class ColdCache {
  kDirty,  ///< 256 MiB were written: the usual way, other libraries' published one too
  kClean,  ///< and then 256 MiB read: as after a kernel that read weights
};

class GpuTimer {
 public:
  static Result<GpuTimer> create();
  GpuTimer(GpuTimer&&) noexcept;
  ~GpuTimer();

  /// Time of one launch in microseconds, when L2 holds nothing useful.
  Result<double> time_cold(const std::function<Status()>& launch,
                           ColdCache cache = ColdCache::kDirty);
  /// Runs `launches` in turn, without events, for about `milliseconds`.
  Status run_for(double milliseconds, const std::vector<std::function<Status()>>& launches);
  /// SM clock right now, in MHz, from a short kernel that counts cycles against the wall clock.
  Result<double> sm_clock_mhz();

 private:
  GpuTimer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Highest rate of FP8 wgmma (m64n128k32, operands in shared memory, two warpgroups an SM) that
/// this GPU reaches on random data, TFLOP/s.
Result<double> wgmma_fp8_ceiling_tflops();

}  // namespace kv8::cuda_testing
