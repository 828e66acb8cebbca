#include "cuda/testing/gpu_timer.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>

#include "cuda/testing/ceiling_kernels.h"
#include "cuda/testing/memory_kernels.h"

namespace kv8::cuda_testing {
namespace {

constexpr std::size_t kFlushBytes = std::size_t{256} << 20;

Status cuda_ok(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("GPU timer, {}: {}", what, cudaGetErrorString(code));
}

}  // namespace

Result<std::string> device_name() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    return unsupported("no CUDA device was found");
  }
  int device = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "device"));
  cudaDeviceProp properties{};
  KV8_TRY(cuda_ok(cudaGetDeviceProperties(&properties, device), "device"));
  return std::string(properties.name);
}

bool has_hopper() {
  int count = 0, device = 0, major = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0 &&
         cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == 9;
}

struct GpuTimer::Impl {
  void* to_write = nullptr;  // kFlushBytes each
  void* to_read = nullptr;
  std::uint64_t* clock = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;
  int round = 0;

  ~Impl() {
    cudaFree(to_write);
    cudaFree(to_read);
    cudaFree(clock);
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
  }
};

GpuTimer::GpuTimer() : impl_(std::make_unique<Impl>()) {}
GpuTimer::GpuTimer(GpuTimer&&) noexcept = default;
GpuTimer::~GpuTimer() = default;

Result<GpuTimer> GpuTimer::create() {
  GpuTimer timer;
  Impl& t = *timer.impl_;
  KV8_TRY(cuda_ok(cudaMalloc(&t.to_write, kFlushBytes), "allocation"));
  KV8_TRY(cuda_ok(cudaMalloc(&t.to_read, kFlushBytes), "allocation"));
  KV8_TRY(cuda_ok(cudaMemset(t.to_read, 0, kFlushBytes), "allocation"));
  KV8_TRY(cuda_ok(cudaMalloc(reinterpret_cast<void**>(&t.clock), 2 * sizeof(std::uint64_t)),
                  "allocation"));
  KV8_TRY(cuda_ok(cudaEventCreate(&t.begin), "event"));
  KV8_TRY(cuda_ok(cudaEventCreate(&t.end), "event"));
  return timer;
}

Result<double> GpuTimer::time_cold(const std::function<Status()>& launch, ColdCache cache) {
  Impl& t = *impl_;
  KV8_TRY(cuda_ok(cudaMemsetAsync(t.to_write, ++t.round & 255, kFlushBytes), "flush"));
  if (cache == ColdCache::kClean) {
    launch_read_and_keep(t.to_read, kFlushBytes, t.clock);
    KV8_TRY(cuda_ok(cudaGetLastError(), "flush"));
  }
  KV8_TRY(cuda_ok(cudaEventRecord(t.begin), "event"));
  KV8_TRY(launch());
  KV8_TRY(cuda_ok(cudaEventRecord(t.end), "event"));
  KV8_TRY(cuda_ok(cudaEventSynchronize(t.end), "launch"));
  float milliseconds = 0;
  KV8_TRY(cuda_ok(cudaEventElapsedTime(&milliseconds, t.begin, t.end), "event"));
  return milliseconds * 1000.0;
}

Status GpuTimer::run_for(double milliseconds,
                         const std::vector<std::function<Status()>>& launches) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double, std::milli>(milliseconds);
  while (Clock::now() < end) {
    for (const auto& launch : launches) KV8_TRY(launch());
    KV8_TRY(cuda_ok(cudaDeviceSynchronize(), "launch"));
  }
  return {};
}

Result<double> GpuTimer::sm_clock_mhz() {
  launch_clock(impl_->clock);
  std::uint64_t measured[2] = {0, 1};
  KV8_TRY(cuda_ok(cudaMemcpy(measured, impl_->clock, sizeof measured, cudaMemcpyDeviceToHost),
                  "clock"));
  return 1000.0 * double(measured[0]) / double(std::max<std::uint64_t>(measured[1], 1));
}

Result<double> wgmma_fp8_ceiling_tflops() {
  GpuTimer timer = KV8_TRY(GpuTimer::create());
  int device = 0, sms = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "device"));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device), "device"));
  float* sink = nullptr;
  KV8_TRY(cuda_ok(cudaMalloc(reinterpret_cast<void**>(&sink), sizeof(float)), "allocation"));
  constexpr int kRounds = 8192;
  std::vector<double> times;
  for (int i = 0; i < 30; ++i) {
    const auto us = timer.time_cold([&]() -> Status {
      launch_wgmma_ceiling(sms, kRounds, i + 1, sink);
      return cuda_ok(cudaGetLastError(), "wgmma ceiling");
    });
    if (!us.ok()) {
      cudaFree(sink);
      return us.error();
    }
    times.push_back(us.value());
  }
  cudaFree(sink);
  std::sort(times.begin(), times.end());
  return kCeilingFlopPerRound * kRounds * sms / times[times.size() / 2] * 1e-6;
}

}  // namespace kv8::cuda_testing
