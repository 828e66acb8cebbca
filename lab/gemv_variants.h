// Settings of the product's gemv kernel to compare.
#pragma once

#include <driver_types.h>

#include <vector>

#include "cuda/dense/gemv/params.h"

namespace kv8::lab {

using GemvStart = cudaError_t (*)(const GemvArgs& args, int multiprocessors, cudaStream_t stream);

struct GemvVariant {
  const char* name;
  GemvStart with_norm, without;  ///< the norm fused, or x through L1
};

const std::vector<GemvVariant>& gemv_variants();

}  // namespace kv8::lab
