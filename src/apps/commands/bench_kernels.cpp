// kv8 bench decode, kv8 bench write
#include "apps/command.h"
#include "base/file.h"
#include "bench/decode.h"
#include "bench/kv_write.h"

namespace kv8::apps {
namespace {

/// Options that both benchmarks have; `bench` runs one and returns its table and its JSON.
template <typename Options, typename Bench>
void define_kernel_bench(CLI::App& app, Action& action, Bench bench) {
  struct Flags {
    Options options;
    std::string json;
  };
  const auto flags = std::make_shared<Flags>();
  app.add_option("--repeats", flags->options.repeats, "Timed launches of each type")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--settleMs", flags->options.settle_ms, "Launch this long before each shape")
      ->check(CLI::Range(0.0, 60000.0))
      ->capture_default_str();
  app.add_option("--json", flags->json, "Write the table as JSON to this file");
  app.callback([flags, bench, &action] {
    action = [flags, bench](Terminal&) -> Status {
      const std::pair<std::string, std::string> result = KV8_TRY(bench(flags->options));
      fmt::print("{}", result.first);
      return flags->json.empty() ? Status() : write_text_file(flags->json, result.second);
    };
  });
}

using TableAndJson = Result<std::pair<std::string, std::string>>;

}  // namespace

void define_bench_decode(CLI::App& app, Action& action) {
  define_kernel_bench<bench::DecodeBenchOptions>(
      app, action, [](const bench::DecodeBenchOptions& options) -> TableAndJson {
        const auto result = KV8_TRY(bench::bench_decode(bench::decode_bench_shapes(), options));
        return std::pair(bench::decode_bench_table(result), bench::decode_bench_json(result));
      });
}

void define_bench_write(CLI::App& app, Action& action) {
  define_kernel_bench<bench::WriteBenchOptions>(
      app, action, [](const bench::WriteBenchOptions& options) -> TableAndJson {
        const auto result = KV8_TRY(bench::bench_write(bench::write_bench_shapes(), options));
        return std::pair(bench::write_bench_table(result), bench::write_bench_json(result));
      });
}

}  // namespace kv8::apps
