#include <cuda_runtime.h>

#include "cuda/attention/decode/dispatch.cuh"
#include "cuda/attention/sm90/decode/entry.h"
#include "cuda/attention/sm90/decode/kernel.cuh"
#include "cuda/attention/sm90/decode/memory.h"
#include "cuda/dense/start.cuh"

namespace kv8::sm90 {
namespace {

template <class C>
cudaError_t configure() {
  static const cudaError_t configured = [] {
    const auto kernel = decode_attention_in_clusters<C>;
    const cudaError_t code =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
    if (code != cudaSuccess) return code;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }();
  return configured;
}

template <class C>
ClusterLimits limits_of() {
  ClusterLimits limits;
  const double memory = peak_memory_bytes_per_second();
  if (configure<C>() != cudaSuccess || memory <= 0) return limits;  // no clusters
  limits.enough_blocks = enough_blocks(memory);
  for (unsigned i = 0; i < limits.most_clusters.size(); ++i) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2u << i, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(2u << i);
    config.blockDim = dim3(C::kThreads);
    config.dynamicSmemBytes = C::kSharedBytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int& most = limits.most_clusters[i];
    if (cudaOccupancyMaxActiveClusters(&most, decode_attention_in_clusters<C>, &config) !=
        cudaSuccess) {
      most = 0;
      cudaGetLastError();  // a size that this device cannot run is no error
    }
  }
  return limits;
}

}  // namespace

ClusterLimits decode_cluster_limits(int elem_bytes, int head_dim, int rows) {
  ClusterLimits limits;
  for_shape(elem_bytes, head_dim, rows, [&]<int kElem, int kDim, int kRows>() {
    static const ClusterLimits of_this = limits_of<RingShape<kElem, kDim, kRows, true>>();
    limits = of_this;
    return cudaSuccess;
  });
  return limits;
}

cudaError_t start_decode_in_clusters(const DecodeKernelParams& params, int elem_bytes, int head_dim,
                                     int rows, int size, cudaStream_t stream) {
  return for_shape(elem_bytes, head_dim, rows, [&]<int kElem, int kDim, int kRows>() {
    using C = RingShape<kElem, kDim, kRows, true>;
    const cudaError_t configured = configure<C>();
    if (configured != cudaSuccess) return configured;
    const dim3 grid(static_cast<unsigned>(size),
                    static_cast<unsigned>(params.num_kv_heads * params.row_tiles),
                    static_cast<unsigned>(params.batch));
    return dense::start_clusters(decode_attention_in_clusters<C>, grid, size, C::kThreads,
                                 C::kSharedBytes, params.dependent_launch, stream, params);
  });
}

}  // namespace kv8::sm90
