// The CUDA backend: runs plans on the current GPU.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "graph/backend.h"

namespace kv8::cuda_engine {

/// "sm_90": the architecture of the current GPU. An error without a driver, without a GPU, and for
/// one that no attention kernel of this build runs on.
Result<std::string> architecture();

/// Copies weights and `embedding` (FP16 [vocab_size, hidden_size]) to the GPU; `plan` must outlive
/// the backend. kCapacity, in one line with what would fit, when the GPU is too small; kUnsupported
/// for models that the kernels do not run.
///
/// Steps are enqueued and not waited for; `sample` and `read_logits` wait. Batches of single tokens
/// are padded to a few sizes and replayed as CUDA graphs.
Result<std::unique_ptr<Backend>> make_cuda_backend(const Plan& plan, const TensorView& embedding,
                                                   const BackendOptions& options);

/// Bytes of the GPU's free memory that weights and activations leave for KV pages.
Result<std::int64_t> cuda_page_memory(const Plan& plan, const BackendOptions& options);

/// Chosen kernels for a plan's products, and what library they are valid for.
struct Tuning {
  std::string library;
  std::vector<TunedProduct> products;
};

/// Times cuBLASLt's kernels for the plan's products with up to `max_rows` rows.
Result<Tuning> tune_products(const Plan& plan, std::int64_t max_rows, const Reporter& reporter);

}  // namespace kv8::cuda_engine
