#include <cuda_runtime.h>

#include "cuda/attention/sm90/decode/entry.h"
#include "cuda/attention/sm90/decode/kernel.cuh"
#include "cuda/dense/start.cuh"

namespace kv8::sm90 {
namespace {

template <int kElem, int kDim, int kRows>
cudaError_t start(const DecodeKernelParams& params, int blocks, cudaStream_t stream) {
  using C = RingShape<kElem, kDim, kRows>;
  static const cudaError_t configured = cudaFuncSetAttribute(
      decode_attention<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kSharedBytes);
  if (configured != cudaSuccess) return configured;
  return dense::start(decode_attention<C>, dim3(static_cast<unsigned>(blocks)), C::kThreads,
                      C::kSharedBytes, params.dependent_launch, stream, params);
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

}  // namespace kv8::sm90
