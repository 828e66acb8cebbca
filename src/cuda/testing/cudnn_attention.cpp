#include "cuda/testing/cudnn_attention.h"

#include <cuda_runtime_api.h>
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cmath>
#include <optional>
#include <unordered_map>
#include <vector>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // the frontend looks cuDNN's symbols up here
}

namespace kv8::cuda_testing {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

Status cuda_ok(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("cuDNN attention, {}: {}", what, cudaGetErrorString(code));
}

Status graph_ok(fe::error_t error, const char* what) {
  if (error.is_good()) return {};
  return unsupported("cuDNN attention, {}: {}", what, error.get_message());
}

}  // namespace

Result<std::string> load_cudnn() {
  if (fe::cudnn_dlhandle == nullptr) fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
  if (fe::cudnn_dlhandle == nullptr) return unsupported("cuDNN was not found: {}", dlerror());
  const std::size_t version = fe::detail::get_backend_version();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

struct CudnnAttention::Impl {
  cudnnHandle_t handle = nullptr;
  fe::graph::Graph graph;
  std::vector<PrefillProblem> inputs;  ///< owners of Q, K and V
  std::vector<void*> owned;
  std::unordered_map<Tensor, void*> pointers;
  void* workspace = nullptr;

  ~Impl() {
    for (void* memory : owned) cudaFree(memory);
    if (handle != nullptr) fe::detail::destroy_handle(handle);
  }
  Result<void*> allocate(std::size_t bytes) {
    void* memory = nullptr;
    KV8_TRY(cuda_ok(cudaMalloc(&memory, std::max<std::size_t>(bytes, 16)), "allocation"));
    owned.push_back(memory);
    return memory;
  }

  /// [batch][tokens][heads][head_dim] in memory, which the graph wants named as batch, heads,
  /// tokens, head_dim.
  static fe::graph::Tensor_attributes shaped(const char* name, const PrefillProblemSpec& spec,
                                             int heads) {
    const std::int64_t batch = spec.q_lens.size(), tokens = spec.q_lens[0], d = spec.head_dim;
    return fe::graph::Tensor_attributes()
        .set_name(name)
        .set_dim({batch, heads, tokens, d})
        .set_stride({tokens * heads * d, d, heads * d, 1});
  }
  /// An input of random normals: the Q of a problem with as many heads.
  Result<Tensor> input(const char* name, PrefillProblemSpec spec, int heads, unsigned seed) {
    spec.num_heads = spec.num_kv_heads = heads;
    spec.seed = seed;
    inputs.push_back(KV8_TRY(PrefillProblem::create(spec)));
    const Tensor tensor = graph.tensor(shaped(name, spec, heads));
    pointers[tensor] = const_cast<void*>(inputs.back().args(ScoreType::kF32).q);
    return tensor;
  }
  Result<Tensor> scalar(const char* name, std::optional<float> value) {
    void* memory = KV8_TRY(allocate(sizeof(float)));
    const float initial = value.value_or(0.0f);
    KV8_TRY(
        cuda_ok(cudaMemcpy(memory, &initial, sizeof initial, cudaMemcpyHostToDevice), "scalar"));
    const Tensor tensor = graph.tensor(fe::graph::Tensor_attributes()
                                           .set_name(name)
                                           .set_dim({1, 1, 1, 1})
                                           .set_stride({1, 1, 1, 1})
                                           .set_data_type(fe::DataType_t::FLOAT));
    pointers[tensor] = memory;
    return tensor;
  }
  Status output(const Tensor& tensor, const PrefillProblemSpec& spec, fe::DataType_t type,
                std::size_t elem_bytes) {
    const auto shape = shaped("o", spec, spec.num_heads);
    tensor->set_output(true)
        .set_dim(shape.get_dim())
        .set_stride(shape.get_stride())
        .set_data_type(type);
    pointers[tensor] = KV8_TRY(allocate(elem_bytes * spec.q_lens.size() * spec.q_lens[0] *
                                        spec.num_heads * spec.head_dim));
    return {};
  }
  Status build_fp16(const PrefillProblemSpec& spec, const Tensor& q, const Tensor& k,
                    const Tensor& v, float scale) {
    const auto [out, stats] = graph.sdpa(q, k, v,
                                         fe::graph::SDPA_attributes()
                                             .set_name("sdpa")
                                             .set_generate_stats(false)
                                             .set_attn_scale(scale)
                                             .set_causal_mask(true));
    (void)stats;
    return output(out, spec, fe::DataType_t::HALF, 2);
  }
  Status build_fp8(const PrefillProblemSpec& spec, const Tensor& q, const Tensor& k,
                   const Tensor& v, float scale) {
    const float input_scale = 5.6f / 448.0f;  // as PrefillProblem stores normals
    Tensor scales[6];
    const char* names[6] = {"descale_q", "descale_k", "descale_v",
                            "descale_s", "scale_s",   "scale_o"};
    const float values[6] = {input_scale, input_scale, input_scale, 1.0f / 256.0f, 256.0f, 100.0f};
    for (int i = 0; i < 6; ++i) scales[i] = KV8_TRY(scalar(names[i], values[i]));
    const auto [out, stats, amax_s, amax_o] =
        graph.sdpa_fp8(q, k, v, scales[0], scales[1], scales[2], scales[3], scales[4], scales[5],
                       fe::graph::SDPA_fp8_attributes()
                           .set_name("sdpa_fp8")
                           .set_generate_stats(false)
                           .set_attn_scale(scale)
                           .set_causal_mask(true));
    (void)stats;
    for (const Tensor& amax : {amax_s, amax_o}) {
      amax->set_output(true)
          .set_dim({1, 1, 1, 1})
          .set_stride({1, 1, 1, 1})
          .set_data_type(fe::DataType_t::FLOAT);
      pointers[amax] = KV8_TRY(allocate(sizeof(float)));
    }
    return output(out, spec, fe::DataType_t::FP8_E4M3, 1);
  }
};

CudnnAttention::CudnnAttention() : impl_(std::make_unique<Impl>()) {}
CudnnAttention::CudnnAttention(CudnnAttention&&) noexcept = default;
CudnnAttention::~CudnnAttention() = default;

Result<CudnnAttention> CudnnAttention::create(const PrefillProblemSpec& spec) {
  KV8_TRY(load_cudnn());
  CudnnAttention attention;
  Impl& a = *attention.impl_;
  if (fe::detail::create_handle(&a.handle) != CUDNN_STATUS_SUCCESS) {
    return unsupported("cuDNN attention: cudnnCreate failed");
  }
  const bool fp8 = spec.kv_type == KvType::kE4m3;
  PrefillProblemSpec inputs = spec;
  inputs.qk_code_amax = 448.0f;
  inputs.scale_per_head = false;
  a.graph.set_io_data_type(fp8 ? fe::DataType_t::FP8_E4M3 : fe::DataType_t::HALF)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const Tensor q = KV8_TRY(a.input("q", inputs, spec.num_heads, 1));
  const Tensor k = KV8_TRY(a.input("k", inputs, spec.num_kv_heads, 2));
  const Tensor v = KV8_TRY(a.input("v", inputs, spec.num_kv_heads, 3));
  const float scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  KV8_TRY(fp8 ? a.build_fp8(spec, q, k, v, scale) : a.build_fp16(spec, q, k, v, scale));
  KV8_TRY(graph_ok(a.graph.build(a.handle, {fe::HeurMode_t::A}), "no plan"));
  std::int64_t bytes = 0;
  KV8_TRY(graph_ok(a.graph.get_workspace_size(bytes), "workspace"));
  a.workspace = KV8_TRY(a.allocate(bytes));
  return attention;
}

Status CudnnAttention::launch() const {
  return graph_ok(impl_->graph.execute(impl_->handle, impl_->pointers, impl_->workspace), "launch");
}

}  // namespace kv8::cuda_testing
