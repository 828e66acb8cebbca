#include <cuda_runtime.h>

#include "cuda/attention/decode/dispatch.cuh"
#include "cuda/attention/decode/grid.h"
#include "cuda/attention/portable/decode/entry.h"
#include "cuda/attention/portable/decode/kernel.cuh"

namespace kv8::portable {
namespace {

template <class C>
cudaError_t start(const DecodeKernelParams& params, dim3 grid, cudaStream_t stream) {
  static const cudaError_t configured =
      cudaFuncSetAttribute(decode_attention<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           int{sizeof(DecodeShared<C>)});
  if (configured != cudaSuccess) return configured;
  decode_attention<C><<<grid, C::kThreads, int{sizeof(DecodeShared<C>)}, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t start_decode(const DecodeKernelParams& params, int elem_bytes, int head_dim, int rows,
                         int blocks, cudaStream_t stream) {
  const int tasks = params.batch * params.num_kv_heads * params.row_tiles;
  const dim3 grid = grid_of(tasks, params.num_kv_heads, blocks);
  return for_shape(elem_bytes, head_dim, rows, [&]<int kElem, int kDim, int kRows>() {
    return start<WarpShape<kElem, kDim, kRows>>(params, grid, stream);
  });
}

}  // namespace kv8::portable
