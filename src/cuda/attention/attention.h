// The front door for attention on the GPU: chooses the kernels that fit the current device.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "cuda/attention/params.h"
#include "cuda/attention/portable/prefill/launch.h"
#include "cuda/attention/sm90/prefill/launch.h"

struct CUstream_st;

namespace kv8 {

/// Kernels that belong together; `KV8_FORCE_KERNEL` takes their names.
enum class KernelFamily {
  kSm90,      ///< "sm90": Hopper (compute capability 9.0)
  kPortable,  ///< "portable": 8.9 and newer
};
std::string_view to_string(KernelFamily family);

/// The family for a GPU of compute capability `major`.`minor`. `forced` is the value of
/// KV8_FORCE_KERNEL: a family's name, or empty for the fastest one.
Result<KernelFamily> select_family(int major, int minor, std::string_view forced);

/// `select_family` of the current device and environment.
Result<KernelFamily> current_family();

/// FP16 scores where calibration proves them in range: with |q| <= q_amax and |k| <= k_amax in
/// stored units, |q·k| and each of its partial sums is at most head_dim * q_amax * k_amax, which
/// must stay below FP16's 65,504. `logit_scale` is q_scale * k_scale * softmax_scale * log2(e),
/// which must be a normal FP16 number. Else FP32 scores.
ScoreType score_type_for(float q_amax, float k_amax, int head_dim, float logit_scale);

/// Several new tokens a sequence: a launch made ready. Holds the pointers of its arguments and may
/// be launched any number of times while they are valid.
class PreparedPrefill {
 public:
  /// Enqueues one kernel on `stream` (null: the default stream).
  Status launch(CUstream_st* stream) const;
  /// The kernel, for logs and tables.
  std::string description() const;

 private:
  friend Result<PreparedPrefill> prepare_prefill(const PrefillArgs&);
  using Prepared = std::variant<sm90::PreparedPrefill, portable::PreparedPrefill>;
  explicit PreparedPrefill(Prepared prepared) : prepared_(std::move(prepared)) {}
  Prepared prepared_;
};

/// Validates `args` and prepares a kernel for the current device. FP16 queries over an FP8 cache
/// are served by the portable family everywhere.
Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args);

/// Bytes that `DecodeArgs::workspace` needs on the current device, whatever the lengths are.
Result<std::size_t> decode_workspace_bytes(const DecodeArgs& args);

/// One or a few new tokens a sequence: validates `args` and enqueues one kernel on `stream` (null:
/// the default stream). Nothing is allocated or waited for, so `stream` may be under capture.
Status launch_decode(const DecodeArgs& args, CUstream_st* stream);

/// The same cut into at most `blocks` runs instead of one a multiprocessor, for tests.
Status launch_decode(const DecodeArgs& args, CUstream_st* stream, int blocks);

}  // namespace kv8
