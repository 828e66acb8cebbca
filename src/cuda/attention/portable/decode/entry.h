// The one call from host code into the file that holds the kernels.
#pragma once

#include <driver_types.h>

#include "cuda/attention/decode/kernel_params.cuh"

namespace kv8::portable {

/// `elem_bytes` 1 or 2, `head_dim` 64 or 128, `rows` 8 or 16.
cudaError_t start_decode(const decode::DecodeKernelParams& params, int elem_bytes, int head_dim,
                         int rows, int blocks, cudaStream_t stream);

}  // namespace kv8::portable
