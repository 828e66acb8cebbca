// The current CUDA device: whether it can run engines, and what it has.
#pragma once

#include <driver_types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kv8::cuda_engine {

/// An error that names what failed, unless `code` is cudaSuccess.
Status cuda_ok(cudaError_t code, std::string_view what);

/// "sm_90": what engines for this device are made for. An error without a driver, without a GPU,
/// and for GPUs that no attention kernel of this build runs on.
Result<std::string> architecture();

/// "NVIDIA H100 80GB HBM3"
Result<std::string> device_name();

/// Bytes of device memory that nobody holds.
Result<std::int64_t> free_memory();

/// Binary gigabytes, for messages.
std::string gib(std::int64_t bytes);

}  // namespace kv8::cuda_engine
