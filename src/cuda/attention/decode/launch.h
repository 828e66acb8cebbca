// From DecodeArgs to a kernel launch, for all kernel families. Callers use attention.h.
#pragma once

#include <driver_types.h>

#include "base/result.h"
#include "cuda/attention/decode/kernel_params.cuh"
#include "cuda/attention/params.h"

namespace kv8::decode {

/// A family's way into its kernels. `elem_bytes` 1 or 2, `head_dim` 64 or 128, `rows` 8 or 16.
using StartDecode = cudaError_t (*)(const DecodeKernelParams& params, int elem_bytes, int head_dim,
                                    int rows, int blocks, cudaStream_t stream);

/// Bytes that `DecodeArgs::workspace` needs on the current device, whatever the lengths are.
Result<std::size_t> workspace_bytes(const DecodeArgs& args);

/// An error unless a kernel can serve `args`.
Status check(const DecodeArgs& args);

/// Enqueues one kernel for checked `args`, cut into at most `blocks` runs.
Status launch(const DecodeArgs& args, StartDecode start, cudaStream_t stream, int blocks);

}  // namespace kv8::decode
