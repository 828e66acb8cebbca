#include "cuda/engine/memory.h"

#include <cuda_runtime_api.h>

#include "cuda/engine/device.h"

namespace kv8::cuda_engine {
namespace {

void free_device(std::byte* data) { cudaFree(data); }
void free_pinned(std::byte* data) { cudaFreeHost(data); }

Status allocated(cudaError_t code, std::size_t bytes, const char* where) {
  if (code != cudaErrorMemoryAllocation) return cuda_ok(code, where);
  (void)cudaGetLastError();
  return capacity_error("{} does not have {} free", where, gib(static_cast<std::int64_t>(bytes)));
}

}  // namespace

Result<Memory> Memory::on_device(std::size_t bytes) {
  void* data = nullptr;
  KV8_TRY(allocated(cudaMalloc(&data, bytes), bytes, "the GPU's memory"));
  return Memory(static_cast<std::byte*>(data), free_device);
}

Result<Memory> Memory::pinned(std::size_t bytes) {
  void* data = nullptr;
  KV8_TRY(allocated(cudaMallocHost(&data, bytes), bytes, "the host's pinned memory"));
  return Memory(static_cast<std::byte*>(data), free_pinned);
}

}  // namespace kv8::cuda_engine
