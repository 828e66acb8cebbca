// Matrix products of many rows by cuBLASLt: FP16 or BF16 in, FP32 sums.
#pragma once

#include <cublasLt.h>

#include <array>
#include <compare>
#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "graph/plan.h"

namespace kv8::cuda_engine {

/// Device memory that products may use while they run.
inline constexpr std::size_t kProductWorkspaceBytes = std::size_t{32} << 20;

/// What the choice of a kernel depends on.
struct ProductShape {
  int rows = 0, in = 0, out = 0;
  bool f32_out = false;
  bool bias = false;
  bool residual = false;
  auto operator<=>(const ProductShape&) const = default;
};

/// out = x * weight^T (+ bias) (+ residual). Device pointers; see LinearStep. `bias` has the
/// output's type.
struct ProductArgs {
  ProductShape shape;
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  const float* residual = nullptr;  ///< may equal `out`
  void* out = nullptr;
};

/// A cuBLASLt handle with the kernels chosen so far.
class Products {
 public:
  /// `workspace` has kProductWorkspaceBytes bytes on the device. `tuned` comes from an engine that
  /// was built for `tuned_library()`; without it cuBLASLt's own heuristics choose.
  static Result<std::unique_ptr<Products>> create(bool bf16, void* workspace,
                                                  std::vector<TunedProduct> tuned);
  ~Products();

  Status run(const ProductArgs& args, cudaStream_t stream);
  /// Times the candidates that cuBLASLt proposes for `args` (its weight is one of `copies` that lie
  /// behind each other, so that none is in the cache) and keeps the fastest.
  Result<TunedProduct> tune(const ProductArgs& args, int copies, cudaStream_t stream);

 private:
  struct Prepared;
  Products() = default;
  Result<Prepared*> prepare(const ProductShape& shape);
  Result<int> propose(const Prepared& prepared,
                      std::span<cublasLtMatmulHeuristicResult_t> candidates) const;
  Status choose(const ProductShape& shape, Prepared& prepared) const;
  Status launch(const Prepared& prepared, const cublasLtMatmulAlgo_t& algorithm,
                const ProductArgs& args, cudaStream_t stream) const;
  Result<double> time(const Prepared& prepared, const cublasLtMatmulAlgo_t& algorithm,
                      const ProductArgs& args, int copies, cudaStream_t stream) const;

  bool bf16_ = false;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::vector<TunedProduct> tuned_;
  std::map<ProductShape, std::unique_ptr<Prepared>> prepared_;
};

/// The library that chosen kernels are valid for: "cublasLt 130002 on sm_90".
Result<std::string> tuned_library();

}  // namespace kv8::cuda_engine
