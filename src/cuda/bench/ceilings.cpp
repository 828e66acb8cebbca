#include "cuda/bench/ceilings.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "cuda/bench/ceiling_kernels.h"

namespace kv8::cuda_bench {
namespace {

Status cuda_ok(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("benchmark, {}: {}", what, cudaGetErrorString(code));
}

struct FreeDevice {
  void operator()(void* p) const { cudaFree(p); }
};
using DeviceMemory = std::unique_ptr<void, FreeDevice>;
Result<DeviceMemory> allocate(std::size_t bytes) {
  void* data = nullptr;
  KV8_TRY(cuda_ok(cudaMalloc(&data, bytes), "allocation"));
  DeviceMemory memory(data);
  KV8_TRY(cuda_ok(cudaMemset(data, 0x5a, bytes), "allocation"));
  return memory;
}

struct DestroyEvent {
  void operator()(CUevent_st* e) const { cudaEventDestroy(e); }
};
using Event = std::unique_ptr<CUevent_st, DestroyEvent>;
Result<Event> make_event() {
  cudaEvent_t event = nullptr;
  KV8_TRY(cuda_ok(cudaEventCreate(&event), "event"));
  return Event(event);
}

Result<double> microseconds_between(cudaEvent_t start, cudaEvent_t stop) {
  KV8_TRY(cuda_ok(cudaEventSynchronize(stop), "kernel"));
  float milliseconds = 0;
  KV8_TRY(cuda_ok(cudaEventElapsedTime(&milliseconds, start, stop), "events"));
  return 1e3 * milliseconds;
}

}  // namespace

Result<MemoryCeilings> measure_memory() {
  constexpr std::size_t kBytes = std::size_t{4} << 30;
  const DeviceMemory from = KV8_TRY(allocate(kBytes)), to = KV8_TRY(allocate(kBytes));
  const Event start = KV8_TRY(make_event()), stop = KV8_TRY(make_event());
  MemoryCeilings ceilings;
  for (int pass = 0; pass < 40; ++pass) {
    const bool copies = pass % 2 == 1;
    cudaEventRecord(start.get());
    copies ? launch_copy(from.get(), to.get(), kBytes) : launch_read(from.get(), kBytes, to.get());
    cudaEventRecord(stop.get());
    KV8_TRY(cuda_ok(cudaGetLastError(), "launch"));
    const double us = KV8_TRY(microseconds_between(start.get(), stop.get()));
    double& best = copies ? ceilings.copy_gb_s : ceilings.read_gb_s;
    best = std::max(best, static_cast<double>(kBytes) * (copies ? 2 : 1) / us * 1e-3);
  }
  return ceilings;
}

Result<std::vector<double>> time_cold(const std::vector<std::function<Status()>>& launches,
                                      const TimingOptions& options) {
  constexpr std::size_t kFlushBytes = std::size_t{256} << 20;
  const DeviceMemory flush = KV8_TRY(allocate(kFlushBytes));
  const Event start = KV8_TRY(make_event()), stop = KV8_TRY(make_event());
  for (const auto& launch : launches) {
    const auto begin = std::chrono::steady_clock::now();
    do {
      for (int i = 0; i < 10; ++i) KV8_TRY(launch());
      KV8_TRY(cuda_ok(cudaDeviceSynchronize(), "warm-up"));
    } while (std::chrono::steady_clock::now() - begin <
             std::chrono::duration<double, std::milli>(options.settle_ms));
  }
  std::vector<std::vector<double>> samples(launches.size());
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    for (std::size_t i = 0; i < launches.size(); ++i) {
      KV8_TRY(cuda_ok(cudaMemsetAsync(flush.get(), repeat, kFlushBytes), "flush"));
      cudaEventRecord(start.get());
      KV8_TRY(launches[i]());
      cudaEventRecord(stop.get());
      samples[i].push_back(KV8_TRY(microseconds_between(start.get(), stop.get())));
    }
  }
  std::vector<double> medians;
  for (auto& s : samples) {
    std::nth_element(s.begin(), s.begin() + static_cast<std::ptrdiff_t>(s.size() / 2), s.end());
    medians.push_back(s[s.size() / 2]);
  }
  return medians;
}

Result<std::string> device_name() {
  cudaDeviceProp properties{};
  KV8_TRY(cuda_ok(cudaGetDeviceProperties(&properties, 0), "device"));
  return std::string(properties.name);
}

}  // namespace kv8::cuda_bench
