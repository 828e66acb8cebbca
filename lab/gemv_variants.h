// Settings of the product's gemv kernel to compare.
#pragma once

#include <driver_types.h>

#include <vector>

#include "cuda/dense/gemv/params.h"

namespace kv8::lab {

using GemvStart = cudaError_t (*)(const GemvArgs& args, int multiprocessors, cudaStream_t stream);

struct GemvVariant {
  const char* name;
  GemvStart shared_x, global_x;  ///< x in shared memory (a fused norm needs that), or through L1
};

const std::vector<GemvVariant>& gemv_variants();

/// A kernel that stands for attention: it takes its time on every multiprocessor.
cudaError_t start_spin(double microseconds, int multiprocessors, cudaStream_t stream);

}  // namespace kv8::lab
