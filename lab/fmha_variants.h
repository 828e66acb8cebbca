// The kernel variants that the laboratory compares. They instantiate the product's kernel header.
#pragma once

#include <span>

#include "cuda/attention/sm90/prefill/kernel_shape.h"

namespace kv8::lab {

struct Variant {
  const char* name;
  sm90::KernelEntry entry;
};
std::span<const Variant> variants();

}  // namespace kv8::lab
