// What the processor at hand can do at most, measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/model_work.h"

namespace kv8::bench {

/// Seconds that reading `bytes` once from memory (or cache, if they fit) takes with `threads`
/// threads: the best of a few passes of a plain vector sum.
double seconds_to_read(std::int64_t bytes, int threads);

/// Seconds that the GEMM library takes for all `shapes` in FP32, one after the other, with its own
/// threading over `threads` threads: the best of a few passes.
double seconds_for_gemms(const std::vector<GemmShape>& shapes, int threads);

/// "AMD EPYC, 2 threads"
std::string machine_text(int threads);

}  // namespace kv8::bench
