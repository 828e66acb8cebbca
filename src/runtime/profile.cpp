#include "runtime/profile.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"

namespace kv8::runtime {
namespace {

double nearest_rank(const std::vector<double>& sorted, double percent) {
  const double rank = std::ceil(percent / 100.0 * static_cast<double>(sorted.size()));
  return sorted[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

double ratio(double value, double per) { return per > 0.0 ? value / per : 0.0; }

double per_second(std::int64_t tokens, double ms) {
  return ratio(1000.0 * static_cast<double>(tokens), ms);
}

struct Stage {
  const char* name;
  const StageTimes& times;
};

/// Those that ran.
std::vector<Stage> stages_of(const Profile& profile) {
  const Stage all[] = {{"tokenization", profile.tokenization},
                       {"prefill", profile.prefill},
                       {"generation", profile.generation},
                       {"mixed", profile.mixed},
                       {"sampling", profile.sampling}};
  std::vector<Stage> stages;
  for (const Stage& stage : all) {
    if (stage.times.count() > 0) stages.push_back(stage);
  }
  return stages;
}

Json stage_json(const Stage& stage) {
  const StageStats stats = stage.times.stats();
  Json json;
  json["stage_id"] = stage.name;
  json["total_gpu_time_ms"] = stats.total;
  json["gpu_time_stats"] = {{"count", stats.count}, {"min", stats.min},       {"max", stats.max},
                            {"mean", stats.mean},   {"median", stats.median}, {"p95", stats.p95},
                            {"p99", stats.p99},     {"stddev", stats.stddev}};
  return json;
}

Json prefill_json(const Profile& profile) {
  Json json;
  json["total_runs"] = profile.prompts;
  json["computed_tokens"] = profile.prefill_tokens + profile.mixed_prefill_tokens;
  json["reused_tokens"] = profile.reused_tokens;
  json["total_time_ms"] = profile.prefill.total();
  json["tokens_per_second"] = per_second(profile.prefill_tokens, profile.prefill.total());
  return json;
}

Json generation_json(const Profile& profile) {
  const double ms = profile.generation.total();
  Json json;
  json["total_generated_tokens"] = profile.generated_tokens;
  json["total_iterations"] = profile.generation.count();
  json["decode_tokens"] = profile.decode_tokens;
  json["total_time_ms"] = ms;
  json["average_time_per_token_ms"] = ratio(ms, static_cast<double>(profile.decode_tokens));
  json["tokens_per_second"] = per_second(profile.decode_tokens, ms);
  return json;
}

std::int64_t mixed_tokens(const Profile& profile) {
  return profile.mixed_prefill_tokens + profile.mixed_decode_tokens;
}

Json mixed_json(const Profile& profile) {
  Json json;
  json["total_iterations"] = profile.mixed.count();
  json["prefill_tokens"] = profile.mixed_prefill_tokens;
  json["decode_tokens"] = profile.mixed_decode_tokens;
  json["total_time_ms"] = profile.mixed.total();
  json["tokens_per_second"] = per_second(mixed_tokens(profile), profile.mixed.total());
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
  json["preemptions"] = profile.preemptions;
  return json;
}

double mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

void StageTimes::add(double ms) {
  min_ = count_ == 0 ? ms : std::min(min_, ms);
  max_ = count_ == 0 ? ms : std::max(max_, ms);
  total_ += ms;
  if (count_ % stride_ == 0) {
    if (samples_.size() == kMaxSamples) {  // keep every second one from now on
      for (std::size_t i = 0; i < kMaxSamples / 2; ++i) samples_[i] = samples_[2 * i];
      samples_.resize(kMaxSamples / 2);
      stride_ *= 2;
    }
    samples_.push_back(ms);  // number count_: kMaxSamples is even, so a multiple of the new stride
  }
  ++count_;
  const double deviation = ms - mean_;  // Welford's recurrence
  mean_ += deviation / static_cast<double>(count_);
  squares_ += deviation * (ms - mean_);
}

StageStats StageTimes::stats() const {
  StageStats stats;
  if (count_ == 0) return stats;
  std::vector<double> sorted = samples_;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  stats.count = count_;
  stats.min = min_;
  stats.max = max_;
  stats.total = total_;
  stats.mean = total_ / static_cast<double>(count_);
  stats.median =
      sorted.size() % 2 == 1 ? sorted[middle] : 0.5 * (sorted[middle - 1] + sorted[middle]);
  stats.p95 = nearest_rank(sorted, 95.0);
  stats.p99 = nearest_rank(sorted, 99.0);
  stats.stddev = std::sqrt(squares_ / static_cast<double>(count_));
  return stats;
}

Status write_profile(const Profile& profile, const std::filesystem::path& file) {
  Json json;
  json["backend"] = profile.backend;
  json["prefill"] = prefill_json(profile);
  json["generation"] = generation_json(profile);
  json["mixed"] = mixed_json(profile);
  json["stages"] = Json::array();
  for (const Stage& stage : stages_of(profile)) json["stages"].push_back(stage_json(stage));
  json["peak_memory_bytes"] = profile.peak_memory_bytes;
  json["kv_cache"] = cache_json(profile);
  return write_json_file(file, json);
}

std::string kv_capacity_text(const Profile& profile) {
  return fmt::format("KV cache: {:.1f} MiB of {} pages hold {} tokens (fp8 {}, fp16 {})",
                     mib(profile.kv_pool_bytes), profile.kv_cache_dtype, profile.kv_capacity_tokens,
                     profile.kv_capacity_tokens_fp8, profile.kv_capacity_tokens_fp16);
}

std::string profile_table(const Profile& profile) {
  std::string text = fmt::format(
      "backend {}\n"
      "prefill     {} prompts, {} tokens computed, {} reused, {:.1f} tokens/s\n"
      "generation  {} tokens; {} steps, {:.1f} tokens/s\n",
      profile.backend, profile.prompts, profile.prefill_tokens + profile.mixed_prefill_tokens,
      profile.reused_tokens, per_second(profile.prefill_tokens, profile.prefill.total()),
      profile.generated_tokens, profile.generation.count(),
      per_second(profile.decode_tokens, profile.generation.total()));
  if (profile.mixed.count() > 0) {
    text += fmt::format("mixed       {} prompt and {} decode tokens in {} steps, {:.1f} tokens/s\n",
                        profile.mixed_prefill_tokens, profile.mixed_decode_tokens,
                        profile.mixed.count(),
                        per_second(mixed_tokens(profile), profile.mixed.total()));
  }
  text += fmt::format("{:<14}{:>8}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "stage (ms)", "count",
                      "total", "mean", "median", "p95", "p99", "max");
  for (const Stage& stage : stages_of(profile)) {
    const StageStats stats = stage.times.stats();
    text += fmt::format("{:<14}{:>8}{:>12.2f}{:>10.3f}{:>10.3f}{:>10.3f}{:>10.3f}{:>10.3f}\n",
                        stage.name, stats.count, stats.total, stats.mean, stats.median, stats.p95,
                        stats.p99, stats.max);
  }
  text += fmt::format(
      "{}\n{} bytes per token (fp8 {}, fp16 {}), {} preemptions\n"
      "memory: {:.1f} MiB at the peak\n",
      kv_capacity_text(profile), profile.kv_bytes_per_token, profile.kv_bytes_per_token_fp8,
      profile.kv_bytes_per_token_fp16, profile.preemptions, mib(profile.peak_memory_bytes));
  return text;
}

}  // namespace kv8::runtime
