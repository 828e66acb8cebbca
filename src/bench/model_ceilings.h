// What the machine that a backend runs on can do at most, measured.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "bench/model_work.h"

namespace kv8::bench {

/// "AMD EPYC, 2 threads" or "NVIDIA H200".
Result<std::string> machine_name(std::string_view backend, int num_threads);

/// CPU: the sum of a buffer of `weight_bytes` (2 GiB at most), and the GEMM library in FP32. CUDA:
/// a read of 4 GiB, and cuBLASLt in `dtype` with FP32 sums, the fastest kernel it proposes for each
/// shape.
Result<Ceilings> measure_ceilings(std::string_view backend, std::span<const GemmShape> shapes,
                                  DType dtype, std::int64_t weight_bytes, int num_threads);

}  // namespace kv8::bench
