// Where the time and the memory of a run went: --dumpProfile and --profileOutputFile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::runtime {

struct StageStats {
  std::int64_t count = 0;
  double min = 0, max = 0, mean = 0, median = 0, p95 = 0, p99 = 0, stddev = 0, total = 0;
};

/// Durations of a stage, in bounded memory: everything is exact but the percentiles of more than
/// kMaxSamples durations, which are those of every second, fourth, … one.
class StageTimes {
 public:
  static constexpr std::size_t kMaxSamples = 1 << 16;
  void add(double ms);
  std::int64_t count() const { return count_; }
  double total() const { return total_; }
  /// Population standard deviation; nearest-rank percentiles.
  StageStats stats() const;

 private:
  std::vector<double> samples_;
  std::int64_t stride_ = 1;  // of the samples kept
  std::int64_t count_ = 0;
  double total_ = 0, min_ = 0, max_ = 0, mean_ = 0, squares_ = 0;  // squares of deviations
};

struct Profile {
  /// A prompt's tokenization; a step of prompt tokens alone, of decode tokens alone, of both; the
  /// sampling that is part of each step.
  StageTimes tokenization, prefill, generation, mixed, sampling;
  std::int64_t prompts = 0;
  std::int64_t prefill_tokens = 0, decode_tokens = 0;              ///< computed by pure steps
  std::int64_t mixed_prefill_tokens = 0, mixed_decode_tokens = 0;  ///< computed by mixed steps
  std::int64_t reused_tokens = 0;     ///< found in the cache instead of computed
  std::int64_t generated_tokens = 0;  ///< all, a prompt's first one included
  std::int64_t preemptions = 0;
  std::int64_t peak_memory_bytes = 0;
  std::string kv_cache_dtype, backend;
  std::int64_t kv_bytes_per_token = 0, kv_bytes_per_token_fp8 = 0, kv_bytes_per_token_fp16 = 0;
  std::int64_t kv_pool_bytes = 0, kv_capacity_tokens = 0;
  std::int64_t kv_capacity_tokens_fp8 = 0, kv_capacity_tokens_fp16 = 0;  ///< in kv_pool_bytes
};

/// "KV cache: 12.3 MiB of fp8 pages hold 4096 tokens (fp8 4096, fp16 2048)".
std::string kv_capacity_text(const Profile& profile);

/// The JSON of the contract, and a table for people.
Status write_profile(const Profile& profile, const std::filesystem::path& file);
std::string profile_table(const Profile& profile);

}  // namespace kv8::runtime
