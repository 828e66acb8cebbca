#include "cuda/engine/memory.h"

#include <cuda_runtime_api.h>

#include "cuda/engine/device.h"

namespace kv8::cuda_engine {
namespace {

void free_device(std::byte* data) { cudaFree(data); }
void free_pinned(std::byte* data) { cudaFreeHost(data); }

}  // namespace

Result<Memory> Memory::on_device(std::size_t bytes) {
  const std::int64_t free = KV8_TRY(free_memory());
  if (static_cast<std::int64_t>(bytes) > free) {
    return capacity_error("{} of GPU memory are needed, {} are free",
                          gib(static_cast<std::int64_t>(bytes)), gib(free));
  }
  void* data = nullptr;
  KV8_TRY(cuda_ok(cudaMalloc(&data, bytes), "memory of " + gib(static_cast<std::int64_t>(bytes))));
  return Memory(static_cast<std::byte*>(data), free_device);
}

Result<Memory> Memory::pinned(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = cudaMallocHost(&data, bytes);
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return capacity_error("the host does not have {} of memory that can be pinned",
                          gib(static_cast<std::int64_t>(bytes)));
  }
  KV8_TRY(cuda_ok(code, "pinned memory"));
  return Memory(static_cast<std::byte*>(data), free_pinned);
}

}  // namespace kv8::cuda_engine
