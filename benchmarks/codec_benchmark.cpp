// Conversions between FP32 and the stored formats, on data that the second-level cache holds.
#include <benchmark/benchmark.h>

#include <vector>

#include "formats/simd_codec.h"

namespace kv8 {
namespace {

constexpr std::size_t kCount = 32768;

/// `convert` turns kCount codes of type From into values of type To.
template <typename From, typename To, typename Convert>
void convert_all(benchmark::State& state, From first, const Convert& convert) {
  const std::vector<From> from(kCount, first);
  std::vector<To> to(kCount);
  for (auto _ : state) {
    convert(from.data(), to.data());
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kCount));
}

void codec_f16_to_float(benchmark::State& state) {
  convert_all<std::uint16_t, float>(
      state, 0x3555, [](const std::uint16_t* in, float* out) { f16_to_float(in, out, kCount); });
}
void codec_bf16_to_float(benchmark::State& state) {
  convert_all<std::uint16_t, float>(
      state, 0x3EAB, [](const std::uint16_t* in, float* out) { bf16_to_float(in, out, kCount); });
}
void codec_e4m3_to_float(benchmark::State& state) {
  convert_all<std::uint8_t, float>(
      state, 0x2B, [](const std::uint8_t* in, float* out) { e4m3_to_float(in, out, kCount); });
}
void codec_f16_from_float(benchmark::State& state) {
  convert_all<float, std::uint16_t>(
      state, 0.33f, [](const float* in, std::uint16_t* out) { f16_from_float(in, out, kCount); });
}
void codec_bf16_from_float(benchmark::State& state) {
  convert_all<float, std::uint16_t>(
      state, 0.33f, [](const float* in, std::uint16_t* out) { bf16_from_float(in, out, kCount); });
}
void codec_e4m3_from_float(benchmark::State& state) {
  convert_all<float, std::uint8_t>(state, 0.33f, [](const float* in, std::uint8_t* out) {
    e4m3_from_float(in, 0.013f, out, kCount);
  });
}

BENCHMARK(codec_f16_to_float);
BENCHMARK(codec_bf16_to_float);
BENCHMARK(codec_e4m3_to_float);
BENCHMARK(codec_f16_from_float);
BENCHMARK(codec_bf16_from_float);
BENCHMARK(codec_e4m3_from_float);

}  // namespace
}  // namespace kv8
