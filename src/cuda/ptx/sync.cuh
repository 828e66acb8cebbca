// Named barriers, ordered atomics and register reallocation between warpgroups. One PTX instruction
// per function.
#pragma once

#include <cstdint>

namespace kv8::ptx {

/// threadIdx.x, read again at every call: where registers are scarce, keeping it costs one.
__device__ __forceinline__ int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

/// Waits at hardware barrier `id` (0..15) until `threads` threads have arrived.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Arrives at hardware barrier `id` without waiting.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Adds to a word in global memory and returns what it held. Releases what this thread has seen
/// and acquires what the others that added before had, across the whole GPU.
__device__ __forceinline__ uint32_t atomic_add_ordered(uint32_t* word, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(word), "r"(value)
               : "memory");
  return before;
}

template <int kRegisters>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void acquire_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace kv8::ptx
