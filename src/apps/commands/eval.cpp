// kv8 eval: what FP8 KV costs in accuracy, and with --speed what it buys.
#include "eval/eval.h"

#include "apps/command.h"
#include "apps/commands/bench_output.h"

namespace kv8::apps {
namespace {

struct EvalFlags {
  eval::EvalOptions options;
  std::string checkpoint, json;
  bool speed = false;
};

Json accuracy_json(const eval::EvalResult& accuracy) {
  return {{"text", accuracy.text_name},
          {"text_sha256", accuracy.text_sha256},
          {"tokens_scored", accuracy.num_tokens},
          {"kv_bytes_per_token_fp16", accuracy.kv_bytes_per_token_fp16},
          {"kv_bytes_per_token_fp8", accuracy.kv_bytes_per_token_fp8},
          {"perplexity_fp16", accuracy.perplexity_fp16},
          {"perplexity_fp8", accuracy.perplexity_fp8},
          {"mean_kl", accuracy.mean_kl},
          {"top1_agreement", accuracy.top1_agreement}};
}

void print_row(std::string_view label, const std::string& fp16, const std::string& fp8,
               const std::string& change) {
  fmt::print("  {:<34}{:>14}{:>14}   {}\n", label, fp16, fp8, change);
}

std::string percent(double fp16, double fp8) {
  return fmt::format("{:+.1f}%", 100 * (fp8 / fp16 - 1));
}

void print_accuracy(const eval::EvalResult& accuracy) {
  constexpr double kGiB = 1073741824.0;
  const auto fp16 = static_cast<double>(accuracy.kv_bytes_per_token_fp16);
  const auto fp8 = static_cast<double>(accuracy.kv_bytes_per_token_fp8);
  print_row("", "FP16 KV", "FP8 KV", "");
  print_row("KV bytes per token", fmt::format("{:.0f}", fp16), fmt::format("{:.0f}", fp8),
            percent(fp16, fp8));
  print_row("tokens per GiB of KV", fmt::format("{:.0f}", kGiB / fp16),
            fmt::format("{:.0f}", kGiB / fp8), percent(kGiB / fp16, kGiB / fp8));
  print_row(
      "perplexity, held-out text", fmt::format("{:.4f}", accuracy.perplexity_fp16),
      fmt::format("{:.4f}", accuracy.perplexity_fp8),
      fmt::format("{:+.2f}%", 100 * (accuracy.perplexity_fp8 / accuracy.perplexity_fp16 - 1)));
  print_row("mean KL(FP16 || FP8), nats", "", fmt::format("{:.5f}", accuracy.mean_kl),
            fmt::format("over {} tokens", accuracy.num_tokens));
  print_row("same best token", "", fmt::format("{:.1f}%", 100 * accuracy.top1_agreement), "");
}

constexpr std::int64_t kSpeedPrompt = 512, kSpeedSteps = 64;

bench::ModelBenchOptions speed_options(const EvalFlags& flags) {
  bench::ModelBenchOptions options;
  options.checkpoint_dir = flags.checkpoint;
  options.repeats = 3;
  options.num_threads = flags.options.num_threads;
  options.decode_steps = kSpeedSteps;
  options.points = {{bench::Phase::kPrefill, 1, kSpeedPrompt, kSpeedPrompt},
                    {bench::Phase::kDecode, 1, kSpeedPrompt + kSpeedSteps}};
  return options;
}

void add_speed(const bench::ModelBenchResult& speed, const std::string& command, Json& json) {
  const auto rate = [&speed](bench::Phase phase, std::string_view kv_dtype) {
    const bench::ModelBenchRow* row = bench::find_row(speed, phase, kv_dtype);
    KV8_CHECK(row != nullptr, "no {} row with a cache in {}", bench::phase_name(phase), kv_dtype);
    return row->tokens_per_s;
  };
  const double prefill16 = rate(bench::Phase::kPrefill, "fp16");
  const double prefill8 = rate(bench::Phase::kPrefill, "fp8");
  const double decode16 = rate(bench::Phase::kDecode, "fp16");
  const double decode8 = rate(bench::Phase::kDecode, "fp8");
  print_row(fmt::format("prefill tokens/s, {} tokens", kSpeedPrompt),
            fmt::format("{:.0f}", prefill16), fmt::format("{:.0f}", prefill8),
            percent(prefill16, prefill8));
  print_row("decode tokens/s, batch 1", fmt::format("{:.1f}", decode16),
            fmt::format("{:.1f}", decode8), percent(decode16, decode8));
  fmt::print("  on {}\n", speed.machine);
  json["prefill_tokens_per_s"] = prefill8;
  json["decode_tokens_per_s"] = decode8;
  json["prefill_tokens_per_s_fp16"] = prefill16;
  json["decode_tokens_per_s_fp16"] = decode16;
  json["speed"] = model_bench_json(speed, command);
}

Status evaluate(EvalFlags& flags, Terminal& terminal) {
  flags.options.checkpoint_dir = flags.checkpoint;
  const auto accuracy = KV8_TRY(eval::evaluate_kv_cache(flags.options, terminal.reporter()));
  Json json = accuracy_json(accuracy);
  std::optional<bench::ModelBenchResult> speed;
  if (flags.speed) speed = KV8_TRY(bench::bench_model(speed_options(flags), terminal.reporter()));
  print_accuracy(accuracy);
  if (speed) add_speed(*speed, terminal.command(), json);
  return flags.json.empty() ? Status() : write_json_output(flags.json, json);
}

}  // namespace

void add_eval(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("eval", "Compare FP8 with FP16 KV: perplexity, KL, memory");
  const auto flags = std::make_shared<EvalFlags>();
  app->add_option("checkpoint", flags->checkpoint, "Checkpoint with FP8 KV scales")->required();
  app->add_option("--text", flags->options.text_file,
                  "Text file (default: the held-out text of kv8)");
  app->add_option("--window", flags->options.window_tokens, "Tokens of context")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 20))
      ->capture_default_str();
  app->add_option("--maxTokens", flags->options.max_tokens,
                  "Tokens to score at most (0: the whole text)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  flags->options.backend = "auto";
  app->add_option("--device", flags->options.backend, "Where to run")
      ->check(one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app->add_option("--threads", flags->options.num_threads, "CPU threads (0: all)")
      ->check(CLI::Range(0, 1024));
  app->add_flag("--speed", flags->speed, "Measure tokens/s on the CPU too");
  app->add_option("--json", flags->json, "Write the figures to this file (- for standard output)");
  app->callback([flags, &action] {
    action = [flags](Terminal& terminal) { return evaluate(*flags, terminal); };
  });
}

}  // namespace kv8::apps
