// cuDNN's fused attention as a comparator of the prefill kernels, where its headers were found when
// this was configured (KV8_HAS_CUDNN). The library itself is loaded at run time.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "cuda/testing/prefill_problem.h"

namespace kv8::cuda_testing {

/// Loads libcudnn.so.9 (an error that says so where there is none) and returns its version,
/// "9.19.1".
Result<std::string> load_cudnn();

/// Causal attention over contiguous [batch][tokens][heads][head_dim] tensors of random normals, all
/// sequences of one length. FP16 in and out, or E4M3 in and out with per-tensor scales: cuDNN on
/// Hopper has no other output for FP8.
class CudnnAttention {
 public:
  /// `spec` gives the element type, heads and lengths; `q_lens` must all be equal to `kv_lens`.
  static Result<CudnnAttention> create(const PrefillProblemSpec& spec);
  CudnnAttention(CudnnAttention&&) noexcept;
  ~CudnnAttention();

  /// Enqueues one run on the default stream.
  Status launch() const;

 private:
  CudnnAttention();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kv8::cuda_testing
