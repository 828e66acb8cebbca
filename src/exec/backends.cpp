#include "exec/backends.h"

#include "cpu/cpu_backend.h"

namespace kv8::exec {

Result<std::string> backend_architecture(std::string_view backend) {
  if (backend == "cpu") return std::string("any");
  if (backend == "cuda") return unsupported("backend cuda: this build has no CUDA backend");
  return unsupported("backend `{}` is not known; there is cpu", backend);
}

Result<std::unique_ptr<Backend>> make_backend(std::string_view backend, const Plan& plan,
                                              std::int32_t num_pages, std::int64_t max_rows,
                                              int num_threads) {
  KV8_TRY(backend_architecture(backend));
  cpu::CpuOptions options;
  options.num_threads = num_threads;
  options.num_pages = num_pages;
  options.max_rows = max_rows;
  return cpu::make_cpu_backend(plan, options);
}

}  // namespace kv8::exec
