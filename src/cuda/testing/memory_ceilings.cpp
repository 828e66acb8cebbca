#include "cuda/testing/memory_ceilings.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "cuda/testing/gpu_timer.h"
#include "cuda/testing/memory_kernels.h"

namespace kv8::cuda_testing {
namespace {

struct FreeDevice {
  void operator()(void* p) const { cudaFree(p); }
};
using DeviceMemory = std::unique_ptr<void, FreeDevice>;

Result<DeviceMemory> allocate(std::size_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) {
    return capacity_error("memory benchmark: no device memory for {} bytes", bytes);
  }
  cudaMemset(data, 0x5a, bytes);
  return DeviceMemory(data);
}

Status launched() {
  const cudaError_t code = cudaGetLastError();
  if (code == cudaSuccess) return {};
  return unsupported("memory benchmark: {}", cudaGetErrorString(code));
}

}  // namespace

Result<MemoryCeilings> measure_memory() {
  constexpr std::size_t kBytes = std::size_t{4} << 30;
  const DeviceMemory from = KV8_TRY(allocate(kBytes)), to = KV8_TRY(allocate(kBytes));
  GpuTimer timer = KV8_TRY(GpuTimer::create());
  MemoryCeilings ceilings;
  for (int pass = 0; pass < 20; ++pass) {
    const auto read = [&]() -> Status {
      launch_read(from.get(), kBytes, to.get());
      return launched();
    };
    const double read_us = KV8_TRY(timer.time_cold(read));
    const double read_clean_us = KV8_TRY(timer.time_cold(read, ColdCache::kClean));
    const double copy_us = KV8_TRY(timer.time_cold([&]() -> Status {
      launch_copy(from.get(), to.get(), kBytes);
      return launched();
    }));
    ceilings.read_gb_s = std::max(ceilings.read_gb_s, 1e-3 * kBytes / read_us);
    ceilings.read_clean_gb_s = std::max(ceilings.read_clean_gb_s, 1e-3 * kBytes / read_clean_us);
    ceilings.copy_gb_s = std::max(ceilings.copy_gb_s, 2e-3 * kBytes / copy_us);
  }
  return ceilings;
}

Result<double> time_plain_read(GpuTimer& timer, const void* data, std::size_t bytes, int repeats,
                               ColdCache cache) {
  const DeviceMemory sink = KV8_TRY(allocate(16));
  std::vector<double> times;
  for (int i = 0; i < std::max(repeats, 1); ++i) {
    const auto read = [&]() -> Status {
      launch_read(data, bytes >> 20 << 20, sink.get());
      return launched();
    };
    times.push_back(KV8_TRY(timer.time_cold(read, cache)));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace kv8::cuda_testing
