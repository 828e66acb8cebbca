// Which kernels ran and for how long, recorded by CUPTI, inside of graphs too.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::cuda_testing {

/// All launches of one kernel; copies and memsets are named "memcpy" and "memset".
struct TracedKernel {
  std::string name;  ///< without namespaces, arguments and template arguments
  double ms = 0;
  std::int64_t count = 0;
};

struct KernelTrace {
  std::vector<TracedKernel> kernels;
  double busy_ms = 0;  ///< during which at least one ran
};

/// Loads libcupti.so. kUnsupported where it is missing or this build had no CUPTI headers.
Status load_tracing();

/// Runs `work` and waits for the device. kUnsupported as above, and where nothing was recorded.
Result<KernelTrace> trace_kernels(const std::function<Status()>& work);

/// "decode_kernel" of "void kv8::(anonymous namespace)::decode_kernel<128, true>(Params)".
std::string short_kernel_name(std::string_view demangled);

}  // namespace kv8::cuda_testing
