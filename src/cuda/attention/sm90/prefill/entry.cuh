// The host-side description of an instantiated kernel.
#pragma once

#include "cuda/attention/sm90/prefill/kernel.cuh"
#include "cuda/attention/sm90/prefill/kernel_shape.h"

namespace kv8::sm90 {

template <class C>
KernelEntry kernel_entry() {
  KernelEntry entry;
  entry.shape =
      KernelShape{C::kKv,   C::kHeadDim,     C::kScore,       C::kRowGroups, C::kKeyGroups,
                  C::kKeys, C::kBlocksPerSm, C::kCodeEighths, C::kLoop};
  entry.function = reinterpret_cast<const void*>(&prefill_kernel<C>);
  entry.threads = C::kThreads;
  entry.smem_bytes = C::kSmemBytes;
  return entry;
}

}  // namespace kv8::sm90
