// Programmatic dependent launch: a kernel that starts while its predecessor in the stream still
// runs. Both do nothing in a launch without the attribute, and before sm_90.
#pragma once

namespace kv8::ptx {

/// Waits until all earlier kernels of the stream have finished and their writes are visible.
/// Before it a kernel may read only what none of them writes (weights), and must write nothing.
__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel of the stream start as soon as it finds room.
__device__ __forceinline__ void start_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace kv8::ptx
