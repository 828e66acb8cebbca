// Which backends this build has: the one place that knows them by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/progress.h"
#include "graph/backend.h"

namespace kv8::exec {

/// The architecture that an engine made now for `backend` is for. "any" for the CPU, whose weights
/// are stored as they come and whose kernels are chosen when they run. Unknown backends, and those
/// that this build or machine lacks, are errors.
Result<std::string> backend_architecture(std::string_view backend);

/// "auto" becomes cuda where this build has it and there is a GPU that it can use, else cpu, and
/// the reporter is told. Other names stay as they are.
std::string choose_backend(std::string_view wanted, const Reporter& reporter);

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

/// Lets the backend time kernels for steps of up to `max_rows` rows, and puts its choice into
/// `plan`. The CPU chooses when it runs.
Status tune_plan(std::string_view backend, Plan& plan, std::int64_t max_rows,
                 const Reporter& reporter);

}  // namespace kv8::exec
