// From PrefillArgs to a kernel launch.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "base/result.h"
#include "cuda/attention/sm90/prefill/kernel_shape.h"

struct CUstream_st;

namespace kv8::sm90 {

/// A launch made ready: tensor maps encoded, grid chosen. Holds the pointers of its arguments and
/// may be launched any number of times while they are valid.
class PreparedPrefill {
 public:
  /// Enqueues the kernel on `stream` (null: the default stream).
  Status launch(CUstream_st* stream) const;
  std::string description() const;

 private:
  friend Result<PreparedPrefill> prepare_prefill(const PrefillArgs&, const KernelEntry&, int);
  KernelEntry entry_;
  int grid_ = 0;
  std::array<std::byte, 640> params_{};  // a KernelParams, which only CUDA sources see
};

/// Validates `args`, picks a kernel by `select_kernel` for the multiprocessors of the current
/// device, a Hopper one, and prepares it. Callers use attention.h.
Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args);

/// The same with a given kernel and number of query heads in a tile, a divisor of those of a KV
/// head, for laboratories and tests that force them.
Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args, const KernelEntry& entry,
                                        int packed_heads);

}  // namespace kv8::sm90
