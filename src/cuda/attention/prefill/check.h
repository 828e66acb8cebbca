// What PrefillArgs must satisfy, whichever kernels serve them.
#pragma once

#include "base/result.h"
#include "cuda/attention/params.h"

namespace kv8::prefill {

/// An error unless sizes, scales and types of `args` make sense together.
Status check(const PrefillArgs& args);

}  // namespace kv8::prefill
