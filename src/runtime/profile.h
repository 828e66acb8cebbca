// Where the time and the memory of a run went: --dumpProfile and --profileOutputFile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::runtime {

struct StageStats {
  std::int64_t count = 0;
  double min = 0, max = 0, mean = 0, median = 0, p95 = 0, p99 = 0, stddev = 0, total = 0;
};
/// Milliseconds in, statistics out (population standard deviation; nearest-rank percentiles).
StageStats summarize(std::vector<double> samples_ms);

struct Profile {
  /// "tokenization" (a prompt), "prefill" (a chunk), "generation" (a decode step and the sampling
  /// after it), "sampling" (of one step's tokens; the part of both that sampling takes)
  std::map<std::string, std::vector<double>> stage_ms;
  std::int64_t prefill_runs = 0;           ///< prompts
  std::int64_t prefill_tokens = 0;         ///< computed
  std::int64_t prefill_reused_tokens = 0;  ///< taken from kept system prompts instead
  std::int64_t generated_tokens = 0;       ///< all, a prompt's first one included
  std::int64_t decode_steps = 0, decode_tokens = 0;
  double prefill_ms = 0, generation_ms = 0;
  std::int64_t peak_memory_bytes = 0;
  std::string kv_cache_dtype, backend;
  std::int64_t kv_bytes_per_token = 0, kv_bytes_per_token_fp8 = 0, kv_bytes_per_token_fp16 = 0;
  std::int64_t kv_pool_bytes = 0, kv_capacity_tokens = 0;
  std::int64_t kv_capacity_tokens_fp8 = 0, kv_capacity_tokens_fp16 = 0;  ///< in kv_pool_bytes
};

/// The JSON of the contract, and a table for people.
Status write_profile(const Profile& profile, const std::filesystem::path& file);
std::string profile_table(const Profile& profile);

}  // namespace kv8::runtime
