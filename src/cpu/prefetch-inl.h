// Fetching what will be read soon. Included once per Highway target.
#include <hwy/highway.h>

#include <cstdint>

#if defined(KV8_CPU_PREFETCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KV8_CPU_PREFETCH_INL_H_
#undef KV8_CPU_PREFETCH_INL_H_
#else
#define KV8_CPU_PREFETCH_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {

/// Fetches the lines of `count` bytes from `address` + `ahead` into the second-level cache. They
/// may lie outside of any object: a prefetch never faults.
HWY_INLINE void prefetch_bytes(const void* address, std::int64_t count, std::int64_t ahead = 0) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  // An integer sum, since a pointer past the end of an object would be undefined.
  const auto from = reinterpret_cast<std::uintptr_t>(address) + static_cast<std::uintptr_t>(ahead);
  for (std::int64_t offset = 0; offset < count; offset += 64) {
    const auto line = from + static_cast<std::uintptr_t>(offset);
    __builtin_prefetch(reinterpret_cast<const void*>(line), /*rw=*/0, /*locality=*/2);
  }
#endif
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
