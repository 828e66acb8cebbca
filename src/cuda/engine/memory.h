// Memory of an engine on the GPU: one allocation, laid out before it is made, and pinned memory of
// the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"

namespace kv8::cuda_engine {

/// Hands out offsets within an allocation that does not exist yet, aligned to 256 bytes.
class ArenaLayout {
 public:
  std::size_t add(std::size_t bytes) {
    const std::size_t at = total_;
    total_ += (bytes + 255) / 256 * 256;
    return at;
  }
  std::size_t total() const { return total_; }

 private:
  std::size_t total_ = 0;
};

/// Device memory, or pinned memory of the host; freed with the object.
class Memory {
 public:
  Memory() = default;
  /// kCapacity when there is not enough.
  static Result<Memory> on_device(std::size_t bytes);
  static Result<Memory> pinned(std::size_t bytes);

  std::byte* data() const { return data_.get(); }
  template <class T>
  T* at(std::size_t offset) const {
    return reinterpret_cast<T*>(data_.get() + offset);
  }

 private:
  using Free = void (*)(std::byte*);
  Memory(std::byte* data, Free free) : data_(data, free) {}
  std::unique_ptr<std::byte, Free> data_{nullptr, nullptr};
};

}  // namespace kv8::cuda_engine
