// The CPU backend: runs plans with Highway kernels and a library's sgemm.
#pragma once

#include <memory>

#include "graph/backend.h"

namespace kv8::cpu {

/// `plan` and the memory of its weights must outlive the backend. `embedding` is FP16
/// [vocab_size, hidden_size]. Fails with kCapacity, naming the bytes, when the caches or
/// activations cannot be allocated.
Result<std::unique_ptr<Backend>> make_cpu_backend(const Plan& plan, const TensorView& embedding,
                                                  const BackendOptions& options);

/// Bytes of this machine's memory that weights and activations leave for KV pages.
std::int64_t cpu_page_memory(const Plan& plan, const BackendOptions& options);

}  // namespace kv8::cpu
