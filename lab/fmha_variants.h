// The kernel variants that the laboratory compares. They instantiate the product's kernel header;
// each source file adds its own before main.
#pragma once

#include <vector>

#include "cuda/attention/sm90/prefill/kernel_shape.h"

namespace kv8::lab {

struct Variant {
  const char* name;
  sm90::KernelEntry entry;
};

inline std::vector<Variant>& variants() {
  static std::vector<Variant> all;
  return all;
}

struct Add {
  Add(std::initializer_list<Variant> some) {
    variants().insert(variants().end(), some.begin(), some.end());
  }
};

}  // namespace kv8::lab
