// A synthetic attention problem on the GPU: inputs of a chosen character, packed into cache pages,
// with a double-precision reference for sampled rows. Tests and benchmarks share it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cuda/attention/params.h"
#include "cuda/testing/problem_kernels.h"

namespace kv8::cuda_testing {

std::string to_string(Pattern pattern);
inline constexpr int kNumPatterns = 9;

struct PrefillProblemSpec {
  std::vector<int> q_lens;   ///< one a sequence
  std::vector<int> kv_lens;  ///< new tokens included
  int num_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 128;
  KvType kv_type = KvType::kE4m3;
  bool f16_queries = false;  ///< over an FP8 cache
  OutType out_type = OutType::kF16;
  Pattern pattern = Pattern::kNormal;
  /// Code that the largest expected |q| and |k| are stored as: 448 uses E4M3's whole range, 14
  /// keeps q·k within FP16.
  float qk_code_amax = 448.0f;
  bool shuffle_pages = true;
  bool scale_per_head = false;
  bool v_offset = false;
  std::vector<std::uint32_t> tree_mask;  ///< [all rows][4] as DecodeArgs has them; empty: causal
  std::uint32_t seed = 1;
};

/// How far sampled rows of the output are from the reference.
struct PrefillError {
  double relative = 0.0;        ///< ||out - ref|| / ||ref|| over all sampled rows
  double worst_row = 0.0;       ///< the same of the worst single row, against the RMS row norm
  std::int64_t rows = 0;        ///< rows compared
  std::int64_t not_finite = 0;  ///< elements that are NaN or infinite: counts as failure
};

class PrefillProblem {
 public:
  static Result<PrefillProblem> create(const PrefillProblemSpec& spec);
  PrefillProblem(PrefillProblem&&) noexcept;
  PrefillProblem& operator=(PrefillProblem&&) noexcept;
  ~PrefillProblem();

  /// Arguments of a launch on this problem; `score_type` is the caller's.
  PrefillArgs args(ScoreType score_type) const;
  /// The same as a decode problem, whose queries are the last tokens; without workspace.
  DecodeArgs decode_args() const;
  /// Fills the output with NaN, so that an element nobody wrote shows.
  Status poison_output();
  /// Compares about `max_rows` (row, head) pairs, always the first and the last rows of each
  /// sequence among them.
  Result<PrefillError> compare(int max_rows) const;
  /// The output's raw 16-bit words, for bitwise comparison of runs.
  Result<std::vector<std::uint16_t>> output() const;

 private:
  PrefillProblem();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kv8::cuda_testing
