// Copies from global to shared memory that pass by the registers. One PTX instruction per function.
#pragma once

#include <cstdint>

namespace kv8::ptx {

/// 16 bytes, of which the first `bytes` (0 or 16) are read and the rest set to zero. Both addresses
/// are multiples of 16.
__device__ __forceinline__ void async_copy_16(uint32_t destination, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination),
               "l"(source), "r"(bytes)
               : "memory");
}

/// Closes the group of this thread's copies since the last one.
__device__ __forceinline__ void async_copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until all but the last `kGroups` groups of this thread have arrived.
template <int kGroups>
__device__ __forceinline__ void async_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace kv8::ptx
