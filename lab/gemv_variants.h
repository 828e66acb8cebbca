// Settings of the product's gemv kernel to compare.
#pragma once

#include <driver_types.h>

#include <vector>

#include "cuda/dense/gemv/params.h"

namespace kv8::lab {

struct GemvVariant {
  const char* name;
  int blocks_each;  ///< blocks a multiprocessor
  cudaError_t (*start)(const GemvArgs& args, int blocks, cudaStream_t stream);
  bool shared_x;
};

const std::vector<GemvVariant>& gemv_variants();

}  // namespace kv8::lab
