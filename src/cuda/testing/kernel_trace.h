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
  double ms = 0;     ///< from when all that started before had ended
  std::int64_t count = 0;
};

/// A kernel that starts while the one before still runs waits for it most of that time: the time
/// that two share is the earlier one's, so that the kernels' times add up.
struct KernelTrace {
  std::vector<TracedKernel> kernels;
  double busy_ms = 0;  ///< during which at least one ran
};

/// A kernel's stay on the device, in nanoseconds.
struct KernelRecord {
  std::string name;
  std::uint64_t begin = 0, end = 0;
};

KernelTrace summarize(std::vector<KernelRecord> records);

/// Loads libcupti.so. kUnsupported where it is missing or this build had no CUPTI headers.
Status load_tracing();

/// Runs `work` and waits for the device. kUnsupported as above, and where nothing was recorded.
Result<KernelTrace> trace_kernels(const std::function<Status()>& work);

/// "decode_kernel" of "void kv8::(anonymous namespace)::decode_kernel<128, true>(Params)".
std::string short_kernel_name(std::string_view demangled);

}  // namespace kv8::cuda_testing
