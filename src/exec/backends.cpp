#include "exec/backends.h"

#include "cpu/cpu_backend.h"

namespace kv8::exec {

Result<std::string> backend_architecture(std::string_view backend) {
  if (backend == "cpu") return std::string("any");
  if (backend == "cuda") return unsupported("backend cuda: this build has no CUDA backend");
  return unsupported("backend `{}` is not known; there is cpu", backend);
}

Result<std::unique_ptr<Backend>> make_backend(std::string_view backend, const Plan& plan,
                                              const TensorView& embedding,
                                              const BackendOptions& options) {
  KV8_TRY(backend_architecture(backend));
  return cpu::make_cpu_backend(plan, embedding, options);
}

Result<std::int64_t> page_memory(std::string_view backend, const Plan& plan,
                                 const BackendOptions& options) {
  KV8_TRY(backend_architecture(backend));
  return cpu::cpu_page_memory(plan, options);
}

bool has_own_memory(std::string_view backend) { return backend == "cuda"; }

std::int32_t default_prefill_chunk(std::string_view backend) {
  return backend == "cuda" ? 2048 : 256;
}

}  // namespace kv8::exec
