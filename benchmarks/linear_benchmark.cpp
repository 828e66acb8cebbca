// Linear layers of few rows: bytes/s are the weights, which lie in memory, not in a cache.
#include <benchmark/benchmark.h>

#include "cpu/cpu_ops.h"

namespace kv8 {
namespace {

/// More than a last-level cache holds.
constexpr std::int64_t kTotalBytes = std::int64_t{256} << 20;

/// Layers of one shape in FP16, one behind the other in memory, as a decode step meets them.
void linear(benchmark::State& state) {
  const std::int64_t in = state.range(0), out_features = state.range(1), rows = state.range(2);
  cpu::Workspace workspace(static_cast<int>(state.range(3)));
  const std::int64_t elements = in * out_features;
  const std::int64_t layers = kTotalBytes / (elements * 2);
  Buffer weights(static_cast<std::size_t>(layers * elements * 2));
  auto* codes = weights.as<std::uint16_t>();
  for (std::int64_t i = 0; i < layers * elements; ++i) {
    codes[i] = static_cast<std::uint16_t>(0x2C00 + i * 37 % 1024);
  }
  std::vector<float> x(static_cast<std::size_t>(rows * in), 0.01f);
  std::vector<float> out(static_cast<std::size_t>(rows * out_features));
  LinearParams params{
      .x = x.data(), .out = out.data(), .rows = rows, .in = in, .out_features = out_features};
  for (auto _ : state) {
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      params.weight = {DType::kF16, codes + layer * elements};
      cpu::linear(workspace, params);
    }
  }
  state.SetBytesProcessed(state.iterations() * layers * elements * 2);
}

// SmolLM2-135M's products; the last one is its output layer.
BENCHMARK(linear)
    ->ArgNames({"in", "out", "rows", "threads"})
    ->ArgsProduct({{576}, {576, 960, 3072, 49152}, {1}, {1, 2}})
    ->ArgsProduct({{1536}, {576}, {1, 2, 4, 8}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// What a parallel loop without work costs.
void empty_loop(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    pool.parallel_for(pool.num_threads(), 1, [](std::int64_t, std::int64_t, int) {});
  }
}
BENCHMARK(empty_loop)->ArgNames({"threads"})->Arg(2)->UseRealTime();

}  // namespace
}  // namespace kv8
