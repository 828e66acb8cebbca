#include <cuda_runtime.h>

#include "cuda/attention/portable/decode/entry.h"
#include "cuda/attention/portable/decode/kernel.cuh"

namespace kv8::portable {
namespace {

template <int kElem, int kDim, int kRows>
cudaError_t start(const DecodeKernelParams& params, int blocks, cudaStream_t stream) {
  using C = WarpShape<kElem, kDim, kRows>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(decode_attention<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           int{sizeof(DecodeShared<C>)});
  if (configured != cudaSuccess) return configured;
  decode_attention<C><<<blocks, C::kThreads, int{sizeof(DecodeShared<C>)}, stream>>>(params);
  return cudaGetLastError();
}

template <int kElem, int kDim>
cudaError_t start_rows(const DecodeKernelParams& params, int rows, int blocks,
                       cudaStream_t stream) {
  return rows == 8 ? start<kElem, kDim, 8>(params, blocks, stream)
                   : start<kElem, kDim, 16>(params, blocks, stream);
}

}  // namespace

cudaError_t start_decode(const DecodeKernelParams& params, int elem_bytes, int head_dim, int rows,
                         int blocks, cudaStream_t stream) {
  if (head_dim == 64) {
    return elem_bytes == 1 ? start_rows<1, 64>(params, rows, blocks, stream)
                           : start_rows<2, 64>(params, rows, blocks, stream);
  }
  return elem_bytes == 1 ? start_rows<1, 128>(params, rows, blocks, stream)
                         : start_rows<2, 128>(params, rows, blocks, stream);
}

}  // namespace kv8::portable
