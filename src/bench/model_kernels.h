// Where the time of a step goes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/model_candidate.h"

namespace kv8::bench {

enum class KernelKind { kLinear, kAttention, kOther };
/// "linear", "attention", "other"
std::string kernel_kind_name(KernelKind kind);

/// All launches of one kernel (GPU) or all steps of one op (CPU) in one piece.
struct KernelTime {
  std::string name;
  KernelKind kind = KernelKind::kOther;
  double ms = 0;
  std::int64_t count = 0;
};

struct KernelSplit {
  std::vector<KernelTime> kernels;  ///< longest first
  double busy_ms = 0;               ///< during which at least one of them ran; overlaps count once
};

/// kUnsupported where kernels of `backend` cannot be told apart: CUPTI's library is missing.
Status can_split_kernels(std::string_view backend);

/// Runs the calls of `pieces` once more, watched, and gives the mean of a piece. On the CPU the
/// clock is read after each step of the plan; on a GPU, CUPTI records the kernels as they run,
/// inside of graphs too, which slows the gaps between them but not the kernels.
Result<KernelSplit> split_by_kernel(Candidate& candidate, const std::vector<TimedCalls>& pieces);

}  // namespace kv8::bench
