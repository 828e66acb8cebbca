// kv8 bench model
#include "apps/command.h"
#include "apps/commands/bench_output.h"

namespace kv8::apps {
namespace {

void define_model(CLI::App& app, Action& action) {
  struct Flags {
    bench::ModelBenchOptions options;
    std::string checkpoint_dir, json, backend = "cpu";
  };
  const auto flags = std::make_shared<Flags>();
  app.add_option("--checkpointDir", flags->checkpoint_dir,
                 "Checkpoint folder; with FP8 KV scales both caches are measured")
      ->required();
  app.add_option("--backend", flags->backend, "Where to run")
      ->check(one_of({"cpu"}, {"cuda"}))
      ->capture_default_str();
  app.add_option("--promptTokens", flags->options.prompt_tokens, "Tokens of the prefill")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--decodeTokens", flags->options.decode_tokens, "Tokens decoded behind it")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--repeats", flags->options.repeats, "Rounds; medians are shown")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--threads", flags->options.num_threads, "CPU threads (0: all)")
      ->check(CLI::Range(0, 1024));
  app.add_option("--json", flags->json, "Write the figures to this file (- for standard output)");
  app.callback([flags, &action] {
    action = [flags](Terminal& terminal) -> Status {
      flags->options.checkpoint_dir = flags->checkpoint_dir;
      const auto result = KV8_TRY(bench::bench_model_cpu(flags->options, terminal.reporter()));
      if (flags->json != "-") fmt::print("{}", model_bench_table(result));
      if (flags->json.empty()) return {};
      return write_json_output(flags->json, model_bench_json(result));
    };
  });
}

}  // namespace

void add_bench(CLI::App& parent, Action& action) {
  CLI::App* app =
      parent.add_subcommand("bench", "Measure speed, beside the machine's own ceilings");
  app->require_subcommand(1);
  define_model(
      *app->add_subcommand("model", "Prefill and decode of a whole model, FP16 against FP8 KV"),
      action);
  define_bench_fmha(
      *app->add_subcommand("fmha", "Prefill attention on a Hopper GPU, FP16 against FP8"), action);
  define_bench_decode(*app->add_subcommand("decode", "Decode attention on a GPU, FP16 against FP8"),
                      action);
  define_bench_write(
      *app->add_subcommand("write", "RoPE + quantize + cache write on a GPU, FP16 against FP8"),
      action);
}

}  // namespace kv8::apps
