// From PrefillArgs to a launch of a portable kernel. Callers use attention.h.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "cuda/attention/params.h"
#include "cuda/attention/portable/prefill/config.cuh"
#include "cuda/attention/portable/prefill/entry.h"

struct CUstream_st;

namespace kv8::portable {

struct PrefillKernel {
  const char* name;
  Products products;
  int head_dim;
  PrefillEntry (*entry)();
};

/// All shipped kernels.
std::span<const PrefillKernel> prefill_kernels();

/// The kernel for a GPU of compute capability `major`.`minor`: E4M3 products where the hardware has
/// them as a warp's instruction and queries are E4M3, else FP16 products of widened codes.
Result<const PrefillKernel*> select_kernel(KvType kv_type, KvType q_type, int head_dim, int major,
                                           int minor);

/// A launch made ready. Holds the pointers of its arguments and may be launched any number of times
/// while they are valid.
class PreparedPrefill {
 public:
  /// Enqueues the kernel on `stream` (null: the default stream).
  Status launch(CUstream_st* stream) const;
  std::string description() const;

 private:
  friend Result<PreparedPrefill> prepare_prefill(const PrefillArgs&, const PrefillKernel&);
  const PrefillKernel* kernel_ = nullptr;
  PrefillEntry entry_;
  int grid_[3] = {0, 0, 0};
  PrefillParams params_{};
};

/// Prepares the kernel that `select_kernel` names for the current device.
Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args);

/// The same with a given kernel, for tests.
Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args, const PrefillKernel& kernel);

}  // namespace kv8::portable
