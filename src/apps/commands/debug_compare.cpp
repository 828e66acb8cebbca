// kv8 debug compare: two runs of one model, every intermediate value beside the other's.
#include <optional>

#include "apps/command.h"
#include "apps/commands/token_ids.h"
#include "bench/geometry.h"
#include "eval/compare_values.h"
#include "exec/backends.h"

namespace kv8::apps {
namespace {

struct SideFlags {
  std::string backend, kv = "fp16", q_dtype = "fp8";
  int threads = 0;
  std::int64_t prefill = 0;

  eval::RunSettings settings() const {
    return {backend, kv == "fp8", q_dtype == "fp8" ? DType::kF8E4M3 : DType::kF16, threads,
            prefill};
  }
  std::string text() const {
    std::string words = fmt::format("{}, {} KV", backend, kv);
    if (kv == "fp8") words += fmt::format(", {} Q", q_dtype);
    if (threads > 0) words += fmt::format(", {} threads", threads);
    if (prefill > 0) words += fmt::format(", {} tokens at once", prefill);
    return words;
  }
};

struct CompareFlags {
  std::string checkpoint, geometry, ids_file;
  std::int32_t layers = 0;
  std::int64_t num_tokens = 32;
  std::optional<double> tolerance;
  SideFlags a{.backend = "cpu"}, b{.backend = "cuda"};
};

/// FP32 against FP16 sums stay within the first; the second is what a neighbouring E4M3 code for a
/// large value (1/14 of it) and its consequences come to.
constexpr double kTolerance = 0.01, kFp8Tolerance = 0.15;

Result<io::Checkpoint> open_model(const CompareFlags& flags) {
  if (flags.checkpoint.empty() == flags.geometry.empty()) {
    return usage_error("give either --checkpoint or --geometry");
  }
  if (!flags.geometry.empty()) {
    return bench::random_checkpoint(KV8_TRY(bench::geometry_config(flags.geometry, flags.layers)),
                                    DType::kF16);
  }
  const io::Checkpoint whole = KV8_TRY(io::Checkpoint::open(flags.checkpoint));
  return flags.layers > 0 ? whole.first_layers(flags.layers) : Result(whole);
}

/// Ids from the file, or scattered over the vocabulary.
Result<std::vector<std::int32_t>> token_ids(const CompareFlags& flags, std::int32_t vocab_size) {
  if (!flags.ids_file.empty()) return read_token_ids(flags.ids_file, vocab_size);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < flags.num_tokens; ++i) {
    const std::uint64_t scattered = (static_cast<std::uint64_t>(i) + 1) * 2654435761u;
    ids.push_back(static_cast<std::int32_t>(scattered % static_cast<std::uint64_t>(vocab_size)));
  }
  return ids;
}

/// The name without what all weights have in common: fused products have long ones.
std::string shown(std::string name) {
  for (const std::string_view part : {"model.", ".weight"}) {
    for (std::size_t at = name.find(part); at != std::string::npos; at = name.find(part)) {
      name.erase(at, part.size());
    }
  }
  return name;
}

void print_table(const eval::ValueComparison& comparison, double tolerance) {
  std::size_t width = 4;
  for (const auto& d : comparison.differences) width = std::max(width, shown(d.name).size());
  fmt::print("{:<{}} {:>13} {:>10} {:>10} {:>10}  {:>13} {:>13} {:>13}\n", "name", width, "size",
             "max error", "/ max", "rms / rms", "worst at", "a", "b");
  for (const auto& d : comparison.differences) {
    fmt::print("{:<{}} {:>13} {:>10.2e} {:>10.2e} {:>10.2e}  {:>13} {:>13.6g} {:>13.6g}{}\n",
               shown(d.name), width, fmt::format("{}x{}", d.rows, d.cols), d.max_error,
               d.relative_error, d.rms_error, fmt::format("[{}, {}]", d.worst_row, d.worst_col),
               d.worst_a, d.worst_b, d.relative_error <= tolerance ? "" : "  <--");
  }
  for (const auto& name : comparison.only_in_a) fmt::print("only in a: {}\n", name);
  for (const auto& name : comparison.only_in_b) fmt::print("only in b: {}\n", name);
}

Status compare(const CompareFlags& flags, Terminal& terminal) {
  for (const SideFlags* side : {&flags.a, &flags.b}) {
    KV8_TRY(exec::backend_architecture(side->backend));
  }
  const io::Checkpoint checkpoint = KV8_TRY(open_model(flags));
  const auto ids = KV8_TRY(token_ids(flags, checkpoint.config().vocab_size));
  const Reporter reporter = terminal.reporter();
  reporter.info(fmt::format("a: {}", flags.a.text()));
  const auto a = KV8_TRY(eval::record_values(checkpoint, ids, flags.a.settings()));
  reporter.info(fmt::format("b: {}", flags.b.text()));
  const auto b = KV8_TRY(eval::record_values(checkpoint, ids, flags.b.settings()));
  const auto comparison = KV8_TRY(eval::compare_values(a, b));
  if (comparison.differences.empty()) {
    return bad_input("the two runs have no value of the same name");
  }
  const bool fp8 = flags.a.kv == "fp8" || flags.b.kv == "fp8";
  const double tolerance = flags.tolerance.value_or(fp8 ? kFp8Tolerance : kTolerance);
  print_table(comparison, tolerance);
  const auto* first = eval::first_beyond(comparison, tolerance);
  if (first == nullptr) {
    fmt::print("all within {} of the largest value\n", tolerance);
    return {};
  }
  const std::string where =
      first->layer == kNone ? "behind the layers" : fmt::format("in layer {}", first->layer);
  return bad_input("`{}` is the first that differs by more than {} of its largest value, {}",
                   first->name, tolerance, where);
}

void define_side(CLI::App& app, const std::string& letter, SideFlags& side) {
  const std::string group = fmt::format("Run {}", letter);
  app.add_option("--backend" + letter, side.backend, "Where it runs")
      ->check(one_of({"cpu", "cuda"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--kv" + letter, side.kv, "KV cache format")
      ->check(one_of({"fp16", "fp8"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--qDtype" + letter, side.q_dtype, "What Q is rounded to with an FP8 cache")
      ->check(one_of({"fp8", "fp16"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--threads" + letter, side.threads, "CPU threads (0: all)")
      ->check(CLI::Range(0, 1024))
      ->group(group);
  app.add_option("--prefill" + letter, side.prefill,
                 "Tokens to process at once, the rest one by one (0: all)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20))
      ->group(group);
}

}  // namespace

void define_debug_compare(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<CompareFlags>();
  app.add_option("--checkpoint", flags->checkpoint, "Checkpoint folder");
  app.add_option("--geometry", flags->geometry, "Random weights of a model known by name instead")
      ->check(one_of(bench::geometry_names()));
  app.add_option("--layers", flags->layers, "Only the first layers (0: all)")
      ->check(CLI::Range(0, 1024));
  app.add_option("--ids-file", flags->ids_file, "JSON array of token ids");
  app.add_option("--numTokens", flags->num_tokens, "Arbitrary tokens, where no file gives them")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--tolerance", flags->tolerance,
                 "Largest error over the largest value of the same name; beyond it the exit status "
                 "is 1 (default: 0.01, with an FP8 cache 0.15)")
      ->check(CLI::Range(0.0, 1e30));
  define_side(app, "A", flags->a);
  define_side(app, "B", flags->b);
  app.callback([flags, &action] {
    action = [flags](Terminal& terminal) { return compare(*flags, terminal); };
  });
}

}  // namespace kv8::apps
