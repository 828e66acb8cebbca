// Which prefill kernel serves a problem: pure host functions, tested without a GPU.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "cuda/attention/sm90/prefill/kernel_shape.h"

namespace kv8::sm90 {

/// "e4m3 d128 f16-scores 3x64 rows, 192 keys", for logs and tables.
std::string to_string(const KernelShape& shape);

}  // namespace kv8::sm90
