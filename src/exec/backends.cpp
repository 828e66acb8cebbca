#include "exec/backends.h"

#include "cpu/cpu_backend.h"
#ifdef KV8_HAS_CUDA
#include "cuda/engine/cuda_backend.h"
#endif

namespace kv8::exec {
namespace {

Result<std::string> cuda_architecture() {
#ifdef KV8_HAS_CUDA
  return cuda_engine::architecture();
#else
  return unsupported("backend cuda: this build has no CUDA backend");
#endif
}

}  // namespace

Result<std::string> backend_architecture(std::string_view backend) {
  if (backend == "cpu") return std::string("any");
  if (backend == "cuda") return cuda_architecture();
  return unsupported("backend `{}` is not known; there are cpu and cuda", backend);
}

std::string choose_backend(std::string_view wanted, const Reporter& reporter) {
  if (wanted != "auto") return std::string(wanted);
  const Result<std::string> cuda = backend_architecture("cuda");
  if (cuda.ok()) {
    reporter.info(fmt::format("running on the GPU ({}); choose the CPU with `cpu`", *cuda));
    return "cuda";
  }
  reporter.info(fmt::format("running on the CPU; {}", cuda.error().message));
  return "cpu";
}

Result<std::unique_ptr<Backend>> make_backend(std::string_view backend, const Plan& plan,
                                              const TensorView& embedding,
                                              const BackendOptions& options) {
  KV8_TRY(backend_architecture(backend));
#ifdef KV8_HAS_CUDA
  if (backend == "cuda") return cuda_engine::make_cuda_backend(plan, embedding, options);
#endif
  return cpu::make_cpu_backend(plan, embedding, options);
}

Result<std::int64_t> page_memory(std::string_view backend, const Plan& plan,
                                 const BackendOptions& options) {
  KV8_TRY(backend_architecture(backend));
#ifdef KV8_HAS_CUDA
  if (backend == "cuda") return cuda_engine::cuda_page_memory(plan, options);
#endif
  return cpu::cpu_page_memory(plan, options);
}

bool has_own_memory(std::string_view backend) { return backend == "cuda"; }

std::int32_t default_prefill_chunk(std::string_view backend) {
  return backend == "cuda" ? 2048 : 256;
}

Status tune_plan(std::string_view backend, [[maybe_unused]] Plan& plan,
                 [[maybe_unused]] std::int64_t max_rows,
                 [[maybe_unused]] const Reporter& reporter) {
  KV8_TRY(backend_architecture(backend));
#ifdef KV8_HAS_CUDA
  if (backend == "cuda") {
    cuda_engine::Tuning tuning = KV8_TRY(cuda_engine::tune_products(plan, max_rows, reporter));
    plan.tuned_library = std::move(tuning.library);
    plan.tuned = std::move(tuning.products);
  }
#endif
  return {};
}

}  // namespace kv8::exec
