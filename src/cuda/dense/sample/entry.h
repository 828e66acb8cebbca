// The calls from host code into the file that holds the kernel.
#pragma once

#include <driver_types.h>

#include <cstddef>

#include "cuda/dense/sample/params.h"

namespace kv8::sample {

inline constexpr int kSlice = 4096;  ///< logits of a row that one block holds
inline constexpr int kMaxParts = 64;

std::size_t workspace_bytes(int rows);
cudaError_t start_sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace kv8::sample
