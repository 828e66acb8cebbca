// Kernel launches with or without programmatic dependent launch, and conversions of the model's
// type that the dense kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace kv8::dense {

/// Enqueues `kernel`, `cluster` neighbours along x of its grid as a thread-block cluster (1: none).
/// A dependent launch on a device before sm_90 is an ordinary one.
template <class... Params, class... Args>
cudaError_t start_clusters(void (*kernel)(Params...), dim3 grid, int cluster, int threads,
                           int shared_bytes, bool dependent, cudaStream_t stream, Args... args) {
  int device = 0, major = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess) {
    code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (code != cudaSuccess) return code;
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  if (dependent && major >= 9) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

/// Enqueues `kernel` without clusters.
template <class... Params, class... Args>
cudaError_t start(void (*kernel)(Params...), dim3 grid, int threads, int shared_bytes,
                  bool dependent, cudaStream_t stream, Args... args) {
  return start_clusters(kernel, grid, 1, threads, shared_bytes, dependent, stream, args...);
}

/// One element of the model's type, as bits, to FP32 and back.
template <bool kBf16>
__device__ __forceinline__ float widen(std::uint16_t bits) {
  if constexpr (kBf16) return __uint_as_float(std::uint32_t{bits} << 16);
  return __half2float(__ushort_as_half(bits));
}

template <bool kBf16>
__device__ __forceinline__ std::uint16_t narrow(float x) {
  if constexpr (kBf16) return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  return __half_as_ushort(__float2half_rn(x));
}

/// x / (1 + exp(-x)), to about 2^-20 of itself while |x| < 100.
__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

}  // namespace kv8::dense
