#include <cuda_runtime.h>

#include "cuda/attention/decode/dispatch.cuh"
#include "cuda/attention/decode/grid.h"
#include "cuda/attention/sm90/decode/entry.h"
#include "cuda/attention/sm90/decode/kernel.cuh"
#include "cuda/attention/sm90/decode/memory.h"
#include "cuda/dense/start.cuh"

namespace kv8::sm90 {
namespace {

template <class C>
cudaError_t start(const DecodeKernelParams& params, dim3 grid, cudaStream_t stream) {
  static const cudaError_t configured = cudaFuncSetAttribute(
      decode_attention<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  if (configured != cudaSuccess) return configured;
  return dense::start(decode_attention<C>, grid, C::kThreads, C::kSharedBytes,
                      params.dependent_launch, stream, params);
}

}  // namespace

cudaError_t start_decode(const DecodeKernelParams& without_policy, int elem_bytes, int head_dim,
                         int rows, int blocks, cudaStream_t stream) {
  DecodeKernelParams params = without_policy;
  params.ordinary_l2_from = ordinary_l2_from(peak_memory_bytes_per_second());
  const int cluster =
      cluster_size(params.batch, params.num_kv_heads * params.row_tiles, params.max_pages, blocks,
                   decode_cluster_limits(elem_bytes, head_dim, rows));
  if (cluster > 1) {
    return start_decode_in_clusters(params, elem_bytes, head_dim, rows, cluster, stream);
  }
  const int tasks = params.batch * params.num_kv_heads * params.row_tiles;
  const dim3 grid = grid_of(tasks, params.num_kv_heads, blocks);
  return for_shape(elem_bytes, head_dim, rows, [&]<int kElem, int kDim, int kRows>() {
    return start<RingShape<kElem, kDim, kRows>>(params, grid, stream);
  });
}

}  // namespace kv8::sm90
