// kv8 bench decode, kv8 bench write, and the list of kernel benchmarks
#include "apps/command.h"
#include "apps/commands/bench_command.h"
#include "base/file.h"
#include "bench/decode.h"
#include "bench/kv_write.h"

namespace kv8::apps {
namespace {

struct Report {
  std::string table, json, svg;
};

/// Options that both benchmarks have. `parse` reads a shape, `bench` runs and reports; it is given
/// the options and the command that repeats the run.
template <typename Options, typename Parse, typename Bench>
void define_kernel_bench(CLI::App& app, Action& action, const std::string& fields, Parse parse,
                         Bench bench) {
  struct Flags {
    Options options;
    std::vector<std::string> shapes;
    std::string json, svg;
  };
  const auto flags = std::make_shared<Flags>();
  app.add_option("--shape", flags->shapes, fields + "; repeatable (default: the whole table)")
      ->delimiter(';');
  app.add_option("--repeats", flags->options.repeats,
                 "Timed launches of each type (write: at least)")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--settleMs", flags->options.settle_ms, "Launch this long before each shape")
      ->check(CLI::Range(0.0, 60000.0))
      ->capture_default_str();
  app.add_option("--json", flags->json, "Write the table as JSON to this file");
  app.add_option("--svg", flags->svg, "Write a plot to this file");
  const std::string name = app.get_name();
  app.callback([flags, parse, bench, name, &action] {
    action = [flags, parse, bench, name](Terminal&) -> Status {
      std::string command = fmt::format("{} --repeats {} --settleMs {}", bench_command(name),
                                        flags->options.repeats, flags->options.settle_ms);
      for (const std::string& shape : flags->shapes) {
        flags->options.shapes.push_back(KV8_TRY(parse(shape)));
        command += " --shape " + shape;
      }
      const Report report = KV8_TRY(bench(flags->options, command));
      fmt::print("{}\n{}", command, report.table);
      if (!flags->json.empty()) KV8_TRY(write_text_file(flags->json, report.json));
      if (!flags->svg.empty()) KV8_TRY(write_text_file(flags->svg, report.svg));
      return {};
    };
  });
}

void define_bench_decode(CLI::App& app, Action& action) {
  define_kernel_bench<bench::DecodeBenchOptions>(
      app, action, "heads,kv_heads,head_dim,batch,context", bench::parse_decode_shape,
      [](const bench::DecodeBenchOptions& options, const std::string& command) -> Result<Report> {
        const auto result = KV8_TRY(bench::bench_decode(options));
        return Report{decode_bench_table(result), decode_bench_json(result, command),
                      decode_bench_svg(result)};
      });
}

void define_bench_write(CLI::App& app, Action& action) {
  define_kernel_bench<bench::WriteBenchOptions>(
      app, action, "heads,kv_heads,head_dim,tokens", bench::parse_write_shape,
      [](const bench::WriteBenchOptions& options, const std::string& command) -> Result<Report> {
        const auto result = KV8_TRY(bench::bench_write(options));
        return Report{write_bench_table(result), write_bench_json(result, command),
                      write_bench_svg(result)};
      });
}

}  // namespace

void add_kernel_benches(CLI::App& parent, Action& action) {
  define_bench_fmha(
      *parent.add_subcommand("fmha", "Prefill attention on the GPU, FP16 against FP8"), action);
  define_bench_decode(
      *parent.add_subcommand("decode", "Decode attention on a GPU, FP16 against FP8"), action);
  define_bench_write(
      *parent.add_subcommand("write", "RoPE + quantize + cache write on a GPU, FP16 against FP8"),
      action);
}

}  // namespace kv8::apps
