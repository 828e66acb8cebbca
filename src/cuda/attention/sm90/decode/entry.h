// The calls from host code into the files that hold the kernels.
#pragma once

#include <driver_types.h>

#include "cuda/attention/decode/kernel_params.cuh"
#include "cuda/attention/sm90/decode/cluster_size.h"

namespace kv8::sm90 {

/// `elem_bytes` 1 or 2, `head_dim` 64 or 128, `rows` 8 or 16.
cudaError_t start_decode(const decode::DecodeKernelParams& params, int elem_bytes, int head_dim,
                         int rows, int blocks, cudaStream_t stream);

/// What `cluster_size` needs to know about the current device; asked for once.
ClusterLimits decode_cluster_limits(int elem_bytes, int head_dim, int rows);

/// The kernel with a cluster of `size` blocks for each task.
cudaError_t start_decode_in_clusters(const decode::DecodeKernelParams& params, int elem_bytes,
                                     int head_dim, int rows, int size, cudaStream_t stream);

}  // namespace kv8::sm90
