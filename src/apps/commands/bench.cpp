// kv8 bench model
#include <algorithm>

#include "apps/command.h"
#include "apps/commands/bench_output.h"
#include "bench/geometry.h"

namespace kv8::apps {
namespace {

struct ModelFlags {
  bench::ModelBenchOptions options;
  std::string checkpoint_dir, json, weight_dtype = "fp16";
  std::vector<std::int64_t> prompts, batches, contexts;
  std::int64_t chunk = 0, mixed_chunk = 0;
};

/// Batch i goes with context i; one of either goes with all of the other.
Status add_decode_points(const ModelFlags& flags, std::vector<bench::ModelPoint>& points) {
  const std::size_t count = std::max(flags.batches.size(), flags.contexts.size());
  for (const auto* list : {&flags.batches, &flags.contexts}) {
    if (list->size() != 1 && list->size() != count) {
      return usage_error("--batch has {} values and --context {}: expected as many, or one",
                         flags.batches.size(), flags.contexts.size());
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    bench::ModelPoint point;
    point.batch = flags.batches[flags.batches.size() == 1 ? 0 : i];
    point.context = flags.contexts[flags.contexts.size() == 1 ? 0 : i];
    points.push_back(point);
    if (flags.mixed_chunk == 0) continue;
    point.phase = bench::Phase::kMixed;
    point.chunk_tokens = flags.mixed_chunk;
    points.push_back(point);
  }
  return {};
}

Status complete(ModelFlags& flags) {
  constexpr std::int64_t kPrompt = 512;
  if (flags.checkpoint_dir.empty() == flags.options.geometry.empty()) {
    return usage_error("give either --checkpointDir or --geometry");
  }
  const bool decodes = !flags.batches.empty() || !flags.contexts.empty() || flags.mixed_chunk > 0;
  const bool defaults =
      !decodes && flags.prompts.empty() && flags.options.full_memory_contexts.empty();
  if (defaults) flags.prompts = {kPrompt};
  if (flags.batches.empty()) flags.batches = {1};
  if (flags.contexts.empty()) flags.contexts = {kPrompt + flags.options.decode_steps};
  for (const std::int64_t tokens : flags.prompts) {
    const std::int64_t chunk = flags.chunk > 0 ? flags.chunk : tokens;
    flags.options.points.push_back({bench::Phase::kPrefill, 1, tokens, chunk});
  }
  if (decodes || defaults) KV8_TRY(add_decode_points(flags, flags.options.points));
  flags.options.checkpoint_dir = flags.checkpoint_dir;
  flags.options.weight_dtype = flags.weight_dtype == "bf16" ? DType::kBF16 : DType::kF16;
  return {};
}

void define_model_points(CLI::App& app, ModelFlags& flags) {
  const CLI::Range tokens(std::int64_t{1}, std::int64_t{1} << 22);
  app.add_option("--promptTokens", flags.prompts, "Prefill: tokens of the prompt (list)")
      ->check(tokens)
      ->delimiter(',');
  app.add_option("--chunk", flags.chunk, "Prefill in chunks of so many tokens (0: all at once)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 22));
  app.add_option("--batch", flags.batches, "Decode: sequences of a step (list)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}))
      ->delimiter(',');
  app.add_option("--context", flags.contexts,
                 "Decode: tokens of each sequence at the end (list; goes with --batch one by one)")
      ->check(tokens)
      ->delimiter(',');
  app.add_option("--mixedChunk", flags.mixed_chunk,
                 "Each decode point again, with so many tokens of a new prompt in every step")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20));
  app.add_option("--fullMemory", flags.options.full_memory_contexts,
                 "Decode as many sequences of so many tokens as fit (list)")
      ->check(tokens)
      ->delimiter(',');
  app.add_option("--kvCacheMemory", flags.options.kv_cache_memory,
                 "KV pages for --fullMemory, e.g. 4GB (default: all that the weights leave)")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--decodeTokens", flags.options.decode_steps, "Timed steps of a round")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
}

void define_model(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<ModelFlags>();
  app.add_option("--checkpointDir", flags->checkpoint_dir,
                 "Checkpoint folder; with FP8 KV scales both caches are measured");
  app.add_option("--geometry", flags->options.geometry,
                 "Random weights in memory instead, of a model known by name")
      ->check(one_of(bench::geometry_names()));
  app.add_option("--weightDtype", flags->weight_dtype, "Type of the random weights")
      ->check(one_of({"fp16", "bf16"}))
      ->capture_default_str();
  app.add_option("--layers", flags->options.layers, "Only the first layers (0: all)")
      ->check(CLI::Range(0, 1024));
  app.add_option("--backend", flags->options.backend, "Where to run")
      ->check(one_of({"cpu", "cuda"}))
      ->capture_default_str();
  define_model_points(app, *flags);
  app.add_option("--repeats", flags->options.repeats, "Rounds; medians are shown")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_flag("--kernels", flags->options.split_kernels,
               "Split the steps by kernel, each beside its roofline");
  app.add_option("--threads", flags->options.num_threads, "CPU threads (0: all)")
      ->check(CLI::Range(0, 1024));
  app.add_option("--json", flags->json, "Write the figures to this file (- for standard output)");
  app.callback([flags, &action] {
    action = [flags](Terminal& terminal) -> Status {
      KV8_TRY(complete(*flags));
      const auto result = KV8_TRY(bench::bench_model(flags->options, terminal.reporter()));
      if (flags->json != "-") fmt::print("{}", model_bench_table(result));
      if (flags->json.empty()) return {};
      return write_json_output(flags->json, model_bench_json(result, terminal.command()));
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
  add_kernel_benches(*app, action);
}

}  // namespace kv8::apps
