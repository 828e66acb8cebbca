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

/// `plan` must outlive the backend and have one part per weight. See cpu::CpuOptions.
Result<std::unique_ptr<Backend>> make_backend(std::string_view backend, const Plan& plan,
                                              std::int32_t num_pages, std::int64_t max_rows,
                                              int num_threads);

}  // namespace kv8::exec
