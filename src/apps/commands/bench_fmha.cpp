// kv8 bench fmha
#include "apps/command.h"
#include "apps/commands/bench_command.h"
#include "base/file.h"
#include "bench/fmha.h"

namespace kv8::apps {
namespace {

struct Flags {
  bench::FmhaBenchOptions options;
  std::vector<std::string> shapes;
  std::string peers, json, svg;

  /// The command that repeats the run.
  std::string command() const {
    std::string text =
        fmt::format("{} --warmup {} --repeats {} --settleMs {}", bench_command("fmha"),
                    options.warmup, options.repeats, options.settle_ms);
    if (options.f16_queries) text += " --f16Queries";
    if (!options.cudnn) text += " --noCudnn";
    if (!peers.empty()) text += " --peers FILE";
    for (const std::string& shape : shapes) text += " --shape " + shape;
    return text;
  }
};

}  // namespace

void define_bench_fmha(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  app.add_option("--shape", flags->shapes,
                 "heads,kv_heads,head_dim,batch,seq_len; repeatable (default: six models)")
      ->delimiter(';');
  app.add_option("--warmup", flags->options.warmup, "Untimed launches of each type")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  app.add_option("--repeats", flags->options.repeats, "Timed launches of each type")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--settleMs", flags->options.settle_ms,
                 "Launch this long before shapes of 4,096 tokens and more")
      ->check(CLI::Range(0.0, 60000.0))
      ->capture_default_str();
  app.add_flag("--f16Queries", flags->options.f16_queries,
               "Also time FP16 queries over the FP8 cache");
  app.add_flag("!--noCudnn", flags->options.cudnn,
               "Leave cuDNN out (it takes part where kv8 was built with its frontend)");
  app.add_option("--peers", flags->peers, "CSV with other kernels' times on this card");
  app.add_option("--json", flags->json, "Write the table as JSON to this file");
  app.add_option("--svg", flags->svg, "Write a plot to this file");
  app.callback([flags, &action] {
    action = [flags](Terminal& terminal) -> Status {
      flags->options.peers_csv = flags->peers;
      for (const std::string& shape : flags->shapes) {
        flags->options.shapes.push_back(KV8_TRY(bench::parse_fmha_shape(shape)));
      }
      const auto result = KV8_TRY(bench::bench_fmha(flags->options, terminal.reporter()));
      fmt::print("{}", bench::fmha_table(result));
      if (!flags->json.empty()) {
        KV8_TRY(write_text_file(flags->json, bench::fmha_json(result, flags->command())));
      }
      if (!flags->svg.empty()) KV8_TRY(write_text_file(flags->svg, bench::fmha_svg(result)));
      return {};
    };
  });
}

}  // namespace kv8::apps
