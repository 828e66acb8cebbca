#include "cuda/testing/gemm_ceiling.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "formats/float_formats.h"

namespace kv8::cuda_testing {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
constexpr int kProposals = 8;

Status cuda_ok(cudaError_t code) {
  if (code == cudaSuccess) return {};
  return unsupported("matrix product benchmark: {}", cudaGetErrorString(code));
}

Status blas_ok(cublasStatus_t code) {
  if (code == CUBLAS_STATUS_SUCCESS) return {};
  return unsupported("matrix product benchmark: {}", cublasLtGetStatusString(code));
}

struct FreeDevice {
  void operator()(void* p) const { cudaFree(p); }
};
using DeviceMemory = std::unique_ptr<void, FreeDevice>;

Result<DeviceMemory> allocate(std::int64_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, static_cast<std::size_t>(bytes)) != cudaSuccess) {
    return capacity_error("matrix product benchmark: no device memory for {} bytes", bytes);
  }
  return DeviceMemory(data);
}

/// Fills device memory with a repeated block of normal numbers: zeros would draw less power.
Status fill_random(void* to, std::int64_t bytes, DType dtype) {
  std::vector<std::uint16_t> block(std::size_t{1} << 20);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (std::uint16_t& value : block) {
    value = dtype == DType::kF16 ? f16_from_float(normal(random)) : bf16_from_float(normal(random));
  }
  const auto block_bytes = static_cast<std::int64_t>(block.size() * 2);
  for (std::int64_t at = 0; at < bytes; at += block_bytes) {
    KV8_TRY(cuda_ok(cudaMemcpy(static_cast<char*>(to) + at, block.data(),
                               static_cast<std::size_t>(std::min(block_bytes, bytes - at)),
                               cudaMemcpyHostToDevice)));
  }
  return {};
}

/// cuBLASLt's objects, which all end with a destroy function.
template <typename Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Handle* address() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

class Bench {
 public:
  explicit Bench(DType dtype) : type_(dtype == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF) {}
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    for (cudaEvent_t event : {begin_, end_}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }

  Status open(std::span<const GemmSize> sizes, DType dtype) {
    std::int64_t x = 0, w = 0, y = 0;
    for (const GemmSize& s : sizes) {
      x = std::max(x, s.rows * s.in * 2);
      w = std::max(w, s.in * s.out * 2);
      y = std::max(y, s.rows * s.out * 2);
    }
    x_ = KV8_TRY(allocate(x));
    w_ = KV8_TRY(allocate(w));
    y_ = KV8_TRY(allocate(y));
    workspace_ = KV8_TRY(allocate(kWorkspaceBytes));
    KV8_TRY(fill_random(x_.get(), x, dtype));
    KV8_TRY(fill_random(w_.get(), w, dtype));
    KV8_TRY(blas_ok(cublasLtCreate(lt_.address())));
    KV8_TRY(cuda_ok(cudaEventCreate(&begin_)));
    return cuda_ok(cudaEventCreate(&end_));
  }

  /// Median seconds of the fastest proposal.
  Result<double> seconds(const GemmSize& size) {
    Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product;
    Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> w, x, y;
    Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
    // Column-major, as the library has it: y^T [out, rows] = w^T' x^T.
    KV8_TRY(blas_ok(cublasLtMatmulDescCreate(product.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F)));
    const cublasOperation_t transpose = CUBLAS_OP_T;
    KV8_TRY(blas_ok(cublasLtMatmulDescSetAttribute(product.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                                   &transpose, sizeof(transpose))));
    const auto in = static_cast<std::uint64_t>(size.in);
    const auto out = static_cast<std::uint64_t>(size.out);
    const auto rows = static_cast<std::uint64_t>(size.rows);
    KV8_TRY(blas_ok(cublasLtMatrixLayoutCreate(w.address(), type_, in, out, size.in)));
    KV8_TRY(blas_ok(cublasLtMatrixLayoutCreate(x.address(), type_, in, rows, size.in)));
    KV8_TRY(blas_ok(cublasLtMatrixLayoutCreate(y.address(), type_, out, rows, size.out)));
    KV8_TRY(blas_ok(cublasLtMatmulPreferenceCreate(preference.address())));
    KV8_TRY(blas_ok(cublasLtMatmulPreferenceSetAttribute(
        preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
        sizeof(kWorkspaceBytes))));
    std::array<cublasLtMatmulHeuristicResult_t, kProposals> proposals{};
    int found = 0;
    KV8_TRY(blas_ok(cublasLtMatmulAlgoGetHeuristic(lt_.get(), product.get(), w.get(), x.get(),
                                                   y.get(), y.get(), preference.get(), kProposals,
                                                   proposals.data(), &found)));
    double best = 1e30;
    for (int i = 0; i < found; ++i) {
      const auto run = [&]() -> Status {
        const float one = 1.0f, zero = 0.0f;
        return blas_ok(cublasLtMatmul(lt_.get(), product.get(), &one, w_.get(), w.get(), x_.get(),
                                      x.get(), &zero, y_.get(), y.get(), y_.get(), y.get(),
                                      &proposals[static_cast<std::size_t>(i)].algo,
                                      workspace_.get(), kWorkspaceBytes, nullptr));
      };
      best = std::min(best, KV8_TRY(median_seconds(run)));
    }
    if (found == 0) return unsupported("cuBLASLt proposes no kernel for a matrix product");
    return best;
  }

 private:
  template <typename Run>
  Result<double> median_seconds(const Run& run) {
    std::array<float, 5> milliseconds{};
    KV8_TRY(run());
    for (float& time : milliseconds) {
      KV8_TRY(cuda_ok(cudaEventRecord(begin_)));
      KV8_TRY(run());
      KV8_TRY(cuda_ok(cudaEventRecord(end_)));
      KV8_TRY(cuda_ok(cudaEventSynchronize(end_)));
      KV8_TRY(cuda_ok(cudaEventElapsedTime(&time, begin_, end_)));
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    return double{milliseconds[2]} * 1e-3;
  }

  cudaDataType_t type_;
  DeviceMemory x_, w_, y_, workspace_;
  Owned<cublasLtHandle_t, cublasLtDestroy> lt_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

Result<double> seconds_for_gemms(std::span<const GemmSize> sizes, DType dtype) {
  KV8_CHECK(dtype == DType::kF16 || dtype == DType::kBF16, "products in {}", dtype_name(dtype));
  Bench bench(dtype);
  KV8_TRY(bench.open(sizes, dtype));
  std::map<GemmSize, int> counts;
  for (const GemmSize& size : sizes) ++counts[size];
  double total = 0;
  for (const auto& [size, count] : counts) total += count * KV8_TRY(bench.seconds(size));
  return total;
}

}  // namespace kv8::cuda_testing
