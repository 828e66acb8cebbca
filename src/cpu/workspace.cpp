#include "cpu/cpu_ops.h"

namespace kv8::cpu {

Workspace::Workspace(int num_threads)
    : pool_(num_threads), buffers_(static_cast<std::size_t>(pool_.num_threads()) + 1) {}

float* Workspace::floats(int worker, std::size_t count) {
  Buffer& buffer = buffers_[static_cast<std::size_t>(worker)];
  if (buffer.size() < count * sizeof(float)) buffer = Buffer(count * sizeof(float));
  return buffer.as<float>();
}

float* Workspace::shared_floats(std::size_t count) { return floats(pool_.num_threads(), count); }

}  // namespace kv8::cpu
