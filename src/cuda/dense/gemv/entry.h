// The calls from host code into the file that holds the kernels.
#pragma once

#include <driver_types.h>

#include "cuda/dense/gemv/params.h"

namespace kv8::gemv {

/// What a launch chooses from the device: multiprocessors and shared memory of a block.
struct Device {
  int multiprocessors;
  int shared_bytes;
};

/// Whether x, and the norm's weights, fit into shared memory beside the smallest ring.
bool norm_fits(const GemvArgs& args, const Device& device);

cudaError_t start_gemv(const GemvArgs& args, const Device& device, cudaStream_t stream);

}  // namespace kv8::gemv
