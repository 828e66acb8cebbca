// The CPU backend: runs plans with Highway kernels and a library's sgemm.
#pragma once

#include <memory>

#include "graph/backend.h"

namespace kv8::cpu {

struct CpuOptions {
  int num_threads = 0;          ///< 0: all hardware threads
  std::int32_t num_pages = 0;   ///< KV pages per layer
  std::int64_t max_rows = 512;  ///< tokens of one call; sizes the activation buffers
};

/// `plan` and the memory of its weights must outlive the backend. Fails with kCapacity, naming the
/// bytes, when the caches or activations cannot be allocated.
Result<std::unique_ptr<Backend>> make_cpu_backend(const Plan& plan, const CpuOptions& options);

}  // namespace kv8::cpu
