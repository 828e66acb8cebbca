#include "cuda/engine/device.h"

#include <cuda_runtime_api.h>

#include "cuda/attention/attention.h"

namespace kv8::cuda_engine {

Status cuda_ok(cudaError_t code, std::string_view what) {
  if (code == cudaSuccess) return {};
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // the next call is not to report this one
    return capacity_error(
        "CUDA, {}: out of GPU memory; other programs may hold it (nvidia-smi lists them)", what);
  }
  return unsupported("CUDA, {}: {}", what, cudaGetErrorString(code));
}

Result<std::string> architecture() {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    (void)cudaGetLastError();  // the next call is not to report this one
    return unsupported("backend cuda: no usable GPU ({})",
                       found != cudaSuccess ? cudaGetErrorString(found) : "none found");
  }
  KV8_TRY(current_family());
  int device = 0, major = 0, minor = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "device"));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                  "compute capability"));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                  "compute capability"));
  return fmt::format("sm_{}{}", major, minor);
}

Result<std::string> device_name() {
  int device = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "device"));
  cudaDeviceProp properties{};
  KV8_TRY(cuda_ok(cudaGetDeviceProperties(&properties, device), "device properties"));
  return std::string(properties.name);
}

Result<std::int64_t> free_memory() {
  std::size_t free = 0, total = 0;
  KV8_TRY(cuda_ok(cudaMemGetInfo(&free, &total), "memory"));
  return static_cast<std::int64_t>(free);
}

std::string gib(std::int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / 1073741824.0);
}

}  // namespace kv8::cuda_engine
