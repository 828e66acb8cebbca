// Which backends this build has: the one place that knows them by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "graph/backend.h"

namespace kv8::exec {

/// The architecture that an engine made now for `backend` is for. "any" for the CPU, whose weights
/// are stored as they come and whose kernels are chosen when they run. Unknown backends, and those
/// that this build or machine lacks, are errors.
Result<std::string> backend_architecture(std::string_view backend);

/// `plan` must outlive the backend and have one part per weight; `embedding` is FP16
/// [vocab_size, hidden_size].
Result<std::unique_ptr<Backend>> make_backend(std::string_view backend, const Plan& plan,
                                              const TensorView& embedding,
                                              const BackendOptions& options);

/// Bytes that a backend opened with `options` (whose num_pages do not count) could give to KV
/// pages.
Result<std::int64_t> page_memory(std::string_view backend, const Plan& plan,
                                 const BackendOptions& options);

/// Whether page_memory is memory of the backend's own, which a pool may take whole. The CPU's is
/// everybody's.
bool has_own_memory(std::string_view backend);

/// Prompt tokens of a step that keep the backend's matrix products busy.
std::int32_t default_prefill_chunk(std::string_view backend);

}  // namespace kv8::exec
