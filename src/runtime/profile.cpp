#include "runtime/profile.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/json.h"

namespace kv8::runtime {
namespace {

double nearest_rank(const std::vector<double>& sorted, double percent) {
  const double rank = std::ceil(percent / 100.0 * static_cast<double>(sorted.size()));
  return sorted[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

double ratio(double value, double per) { return per > 0.0 ? value / per : 0.0; }

Json stage_json(const std::string& name, const StageStats& stats) {
  Json json;
  json["stage_id"] = name;
  json["total_gpu_time_ms"] = stats.total;
  json["gpu_time_stats"] = {{"count", stats.count}, {"min", stats.min},       {"max", stats.max},
                            {"mean", stats.mean},   {"median", stats.median}, {"p95", stats.p95},
                            {"p99", stats.p99},     {"stddev", stats.stddev}};
  return json;
}

Json prefill_json(const Profile& profile) {
  Json json;
  json["total_runs"] = profile.prefill_runs;
  json["computed_tokens"] = profile.prefill_tokens;
  json["reused_tokens"] = profile.prefill_reused_tokens;
  json["total_time_ms"] = profile.prefill_ms;
  json["tokens_per_second"] =
      ratio(1000.0 * static_cast<double>(profile.prefill_tokens), profile.prefill_ms);
  return json;
}

Json generation_json(const Profile& profile) {
  const auto tokens = static_cast<double>(profile.decode_tokens);
  Json json;
  json["total_generated_tokens"] = profile.generated_tokens;
  json["total_iterations"] = profile.decode_steps;
  json["decode_tokens"] = profile.decode_tokens;
  json["total_time_ms"] = profile.generation_ms;
  json["average_time_per_token_ms"] = ratio(profile.generation_ms, tokens);
  json["tokens_per_second"] = ratio(1000.0 * tokens, profile.generation_ms);
  return json;
}

Json cache_json(const Profile& profile) {
  Json json;
  json["dtype"] = profile.kv_cache_dtype;
  json["bytes_per_token"] = profile.kv_bytes_per_token;
  json["bytes_per_token_fp8"] = profile.kv_bytes_per_token_fp8;
  json["bytes_per_token_fp16"] = profile.kv_bytes_per_token_fp16;
  json["pool_bytes"] = profile.kv_pool_bytes;
  json["capacity_tokens"] = profile.kv_capacity_tokens;
  json["capacity_tokens_fp8"] = profile.kv_capacity_tokens_fp8;
  json["capacity_tokens_fp16"] = profile.kv_capacity_tokens_fp16;
  return json;
}

double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

StageStats summarize(std::vector<double> samples_ms) {
  StageStats stats;
  if (samples_ms.empty()) return stats;
  std::sort(samples_ms.begin(), samples_ms.end());
  const std::size_t count = samples_ms.size(), middle = count / 2;
  stats.count = static_cast<std::int64_t>(count);
  stats.min = samples_ms.front();
  stats.max = samples_ms.back();
  stats.total = std::accumulate(samples_ms.begin(), samples_ms.end(), 0.0);
  stats.mean = stats.total / static_cast<double>(count);
  stats.median =
      count % 2 == 1 ? samples_ms[middle] : 0.5 * (samples_ms[middle - 1] + samples_ms[middle]);
  stats.p95 = nearest_rank(samples_ms, 95.0);
  stats.p99 = nearest_rank(samples_ms, 99.0);
  double squares = 0.0;
  for (const double sample : samples_ms) squares += (sample - stats.mean) * (sample - stats.mean);
  stats.stddev = std::sqrt(squares / static_cast<double>(count));
  return stats;
}

Status write_profile(const Profile& profile, const std::filesystem::path& file) {
  Json json;
  json["backend"] = profile.backend;
  json["prefill"] = prefill_json(profile);
  json["generation"] = generation_json(profile);
  json["stages"] = Json::array();
  for (const auto& [name, samples] : profile.stage_ms) {
    json["stages"].push_back(stage_json(name, summarize(samples)));
  }
  json["peak_memory_bytes"] = profile.peak_memory_bytes;
  json["kv_cache"] = cache_json(profile);
  return write_json_file(file, json);
}

std::string profile_table(const Profile& profile) {
  std::string text = fmt::format(
      "backend {}, KV cache {}\n"
      "prefill     {} prompts, {} tokens computed, {} reused, {:.1f} tokens/s\n"
      "generation  {} tokens in {} steps, {:.1f} tokens/s\n",
      profile.backend, profile.kv_cache_dtype, profile.prefill_runs, profile.prefill_tokens,
      profile.prefill_reused_tokens,
      ratio(1000.0 * static_cast<double>(profile.prefill_tokens), profile.prefill_ms),
      profile.generated_tokens, profile.decode_steps,
      ratio(1000.0 * static_cast<double>(profile.decode_tokens), profile.generation_ms));
  text += fmt::format("{:<14}{:>8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "stage (ms)", "count",
                      "total", "mean", "median", "p95", "p99", "max");
  for (const auto& [name, samples] : profile.stage_ms) {
    const StageStats stats = summarize(samples);
    text += fmt::format("{:<14}{:>8}{:>12.2f}{:>10.3f}{:>10.3f}{:>10.3f}{:>10.3f}{:>10.3f}\n", name,
                        stats.count, stats.total, stats.mean, stats.median, stats.p95, stats.p99,
                        stats.max);
  }
  text += fmt::format(
      "KV cache    {} bytes per token (fp8 {}, fp16 {})\n"
      "            {:.1f} MiB hold {} tokens (fp8 {}, fp16 {})\n"
      "memory      {:.1f} MiB at the peak\n",
      profile.kv_bytes_per_token, profile.kv_bytes_per_token_fp8, profile.kv_bytes_per_token_fp16,
      mib(profile.kv_pool_bytes), profile.kv_capacity_tokens, profile.kv_capacity_tokens_fp8,
      profile.kv_capacity_tokens_fp16, mib(profile.peak_memory_bytes));
  return text;
}

}  // namespace kv8::runtime
