#include "cuda/engine/products.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "cuda/engine/device.h"

namespace kv8::cuda_engine {
namespace {

constexpr int kMaxCandidates = 12;
constexpr int kTimedRuns = 5;

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(TunedProduct::algorithm));

Status blas_ok(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return {};
  return unsupported("cuBLASLt, {}: {}", what, cublasLtGetStatusString(code));
}

template <class T, cublasStatus_t (*kDestroy)(T)>
struct Handle {
  T value = nullptr;
  Handle() = default;
  Handle(Handle&& other) noexcept : value(std::exchange(other.value, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value, other.value);
    return *this;
  }
  ~Handle() {
    if (value != nullptr) kDestroy(value);
  }
};
using Description = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

Result<Layout> layout(cudaDataType type, int rows, int cols) {
  Layout made;
  KV8_TRY(blas_ok(cublasLtMatrixLayoutCreate(&made.value, type, rows, cols, rows), "layout"));
  return made;
}

/// Events that live for one measurement.
struct Events {
  cudaEvent_t start = nullptr, stop = nullptr;
  ~Events() {
    if (start != nullptr) cudaEventDestroy(start);
    if (stop != nullptr) cudaEventDestroy(stop);
  }
};

bool same_but_rows(const TunedProduct& tuned, const ProductShape& shape) {
  return tuned.in == shape.in && tuned.out == shape.out && tuned.f32_out == shape.f32_out &&
         tuned.bias == shape.bias && tuned.residual == shape.residual;
}

}  // namespace

/// cuBLASLt is column-major: out^T [out, rows] = weight^T' [in, out]^T * x^T [in, rows].
struct Products::Prepared {
  Description description;
  Layout weight, x, out;
  cublasLtMatmulAlgo_t algorithm{};
};

Result<std::string> tuned_library() {
  return fmt::format("cublasLt {} on {}", cublasLtGetVersion(), KV8_TRY(architecture()));
}

Result<std::unique_ptr<Products>> Products::create(bool bf16, void* workspace,
                                                   std::vector<TunedProduct> tuned) {
  std::unique_ptr<Products> products(new Products);
  products->bf16_ = bf16;
  products->workspace_ = workspace;
  products->tuned_ = std::move(tuned);
  KV8_TRY(blas_ok(cublasLtCreate(&products->handle_), "start"));
  return products;
}

Products::~Products() {
  prepared_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

/// cuBLASLt's candidates, likeliest first, that make do with the workspace; returns how many.
Result<int> Products::propose(const Prepared& prepared,
                              std::span<cublasLtMatmulHeuristicResult_t> candidates) const {
  Preference preference;
  KV8_TRY(blas_ok(cublasLtMatmulPreferenceCreate(&preference.value), "preference"));
  const std::size_t bytes = kProductWorkspaceBytes;
  KV8_TRY(
      blas_ok(cublasLtMatmulPreferenceSetAttribute(
                  preference.value, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
              "workspace"));
  int found = 0;
  KV8_TRY(blas_ok(cublasLtMatmulAlgoGetHeuristic(
                      handle_, prepared.description.value, prepared.weight.value, prepared.x.value,
                      prepared.out.value, prepared.out.value, preference.value,
                      static_cast<int>(candidates.size()), candidates.data(), &found),
                  "heuristics"));
  return found;
}

/// The tuned kernel of the next larger number of rows, if it runs this one; else the heuristics'.
Status Products::choose(const ProductShape& shape, Prepared& prepared) const {
  const TunedProduct* best = nullptr;
  for (const TunedProduct& tuned : tuned_) {
    if (!same_but_rows(tuned, shape)) continue;
    const bool covers = tuned.rows >= shape.rows;
    if (best == nullptr || (covers && (best->rows < shape.rows || tuned.rows < best->rows)) ||
        (!covers && best->rows < shape.rows && tuned.rows > best->rows)) {
      best = &tuned;
    }
  }
  if (best != nullptr) {
    std::memcpy(&prepared.algorithm, best->algorithm.data(), sizeof prepared.algorithm);
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t code = cublasLtMatmulAlgoCheck(
        handle_, prepared.description.value, prepared.weight.value, prepared.x.value,
        prepared.out.value, prepared.out.value, &prepared.algorithm, &result);
    if (code == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kProductWorkspaceBytes) return {};
  }
  cublasLtMatmulHeuristicResult_t result{};
  const int found = KV8_TRY(propose(prepared, std::span(&result, 1)));
  if (found == 0) {
    return unsupported("cuBLASLt has no kernel for a product of {} rows, {} in, {} out", shape.rows,
                       shape.in, shape.out);
  }
  prepared.algorithm = result.algo;
  return {};
}

Result<Products::Prepared*> Products::prepare(const ProductShape& shape) {
  const auto [entry, is_new] = prepared_.try_emplace(shape);
  if (!is_new) return entry->second.get();
  const auto fill = [&]() -> Result<std::unique_ptr<Prepared>> {
    auto prepared = std::make_unique<Prepared>();
    const cudaDataType type = bf16_ ? CUDA_R_16BF : CUDA_R_16F;
    const cudaDataType out_type = shape.f32_out ? CUDA_R_32F : type;
    KV8_TRY(blas_ok(
        cublasLtMatmulDescCreate(&prepared->description.value, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "description"));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    KV8_TRY(blas_ok(
        cublasLtMatmulDescSetAttribute(prepared->description.value, CUBLASLT_MATMUL_DESC_TRANSA,
                                       &transposed, sizeof transposed),
        "transposition"));
    if (shape.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      KV8_TRY(blas_ok(
          cublasLtMatmulDescSetAttribute(prepared->description.value, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                         &epilogue, sizeof epilogue),
          "epilogue"));
      KV8_TRY(blas_ok(cublasLtMatmulDescSetAttribute(prepared->description.value,
                                                     CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out_type,
                                                     sizeof out_type),
                      "bias"));
    }
    prepared->weight = KV8_TRY(layout(type, shape.in, shape.out));
    prepared->x = KV8_TRY(layout(type, shape.in, shape.rows));
    prepared->out = KV8_TRY(layout(out_type, shape.out, shape.rows));
    KV8_TRY(choose(shape, *prepared));
    return prepared;
  };
  auto filled = fill();
  if (!filled.ok()) {
    prepared_.erase(entry);
    return filled.error();
  }
  entry->second = std::move(*filled);
  return entry->second.get();
}

Status Products::launch(const Prepared& prepared, const cublasLtMatmulAlgo_t& algorithm,
                        const ProductArgs& args, cudaStream_t stream) const {
  if (args.shape.bias) {
    KV8_TRY(blas_ok(cublasLtMatmulDescSetAttribute(prepared.description.value,
                                                   CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias,
                                                   sizeof args.bias),
                    "bias"));
  }
  const float one = 1.0f;
  const float beta = args.shape.residual ? 1.0f : 0.0f;
  const void* c = args.shape.residual ? static_cast<const void*>(args.residual) : args.out;
  return blas_ok(
      cublasLtMatmul(handle_, prepared.description.value, &one, args.weight, prepared.weight.value,
                     args.x, prepared.x.value, &beta, c, prepared.out.value, args.out,
                     prepared.out.value, &algorithm, workspace_, kProductWorkspaceBytes, stream),
      "product");
}

Status Products::run(const ProductArgs& args, cudaStream_t stream) {
  Prepared* const prepared = KV8_TRY(prepare(args.shape));
  return launch(*prepared, prepared->algorithm, args, stream);
}

Result<double> Products::time(const Prepared& prepared, const cublasLtMatmulAlgo_t& algorithm,
                              const ProductArgs& args, int copies, cudaStream_t stream) const {
  const std::size_t bytes = std::size_t(2) * args.shape.in * args.shape.out;
  const auto with_copy = [&](int run) {
    ProductArgs other = args;
    other.weight = static_cast<const std::byte*>(args.weight) + bytes * std::size_t(run % copies);
    return other;
  };
  Events events;
  KV8_TRY(cuda_ok(cudaEventCreate(&events.start), "event"));
  KV8_TRY(cuda_ok(cudaEventCreate(&events.stop), "event"));
  KV8_TRY(launch(prepared, algorithm, with_copy(kTimedRuns), stream));
  KV8_TRY(cuda_ok(cudaEventRecord(events.start, stream), "event"));
  for (int run = 0; run < kTimedRuns; ++run) {
    KV8_TRY(launch(prepared, algorithm, with_copy(run), stream));
  }
  KV8_TRY(cuda_ok(cudaEventRecord(events.stop, stream), "event"));
  KV8_TRY(cuda_ok(cudaEventSynchronize(events.stop), "a product that was timed"));
  float ms = 0.0f;
  KV8_TRY(cuda_ok(cudaEventElapsedTime(&ms, events.start, events.stop), "event"));
  return double{ms};
}

Result<TunedProduct> Products::tune(const ProductArgs& args, int copies, cudaStream_t stream) {
  const ProductShape& shape = args.shape;
  Prepared* const prepared = KV8_TRY(prepare(shape));
  std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> candidates{};
  const int found = KV8_TRY(propose(*prepared, candidates));
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < found; ++i) {
    const auto& candidate = candidates[static_cast<std::size_t>(i)];
    if (candidate.state != CUBLAS_STATUS_SUCCESS) continue;
    const double ms = KV8_TRY(time(*prepared, candidate.algo, args, copies, stream));
    if (ms >= best) continue;
    best = ms;
    prepared->algorithm = candidate.algo;
  }
  TunedProduct tuned{shape.rows, shape.in,       shape.out, shape.f32_out,
                     shape.bias, shape.residual, {}};
  std::memcpy(tuned.algorithm.data(), &prepared->algorithm, sizeof prepared->algorithm);
  return tuned;
}

}  // namespace kv8::cuda_engine
