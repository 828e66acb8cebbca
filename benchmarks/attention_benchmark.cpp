// Attention over a paged cache: decode steps and prefill, FP16 and FP8 KV.
#include <benchmark/benchmark.h>

#include <cmath>
#include <numeric>

#include "cpu/cpu_ops.h"
#include "formats/float_formats.h"

namespace kv8 {
namespace {

struct Heads {
  int query, kv, dim;
};
constexpr Heads kSmolLm2{9, 3, 64};
constexpr Heads kLlama8b{32, 8, 128};

/// One layer's cache of `tokens` tokens, every byte a small finite number in either format.
struct Cache {
  Cache(const Heads& heads, int elem_bytes, std::int64_t tokens) {
    view.layout = {heads.kv, heads.dim, elem_bytes};
    pages.resize(static_cast<std::size_t>(pages_for_tokens(tokens)));
    std::iota(pages.begin(), pages.end(), 0);
    const auto bytes =
        static_cast<std::size_t>(view.layout.page_elements() * elem_bytes) * pages.size();
    for (Buffer* buffer : {&k, &v}) {
      *buffer = Buffer(bytes);
      for (std::size_t i = 0; i < bytes; ++i) {
        buffer->data()[i] = static_cast<std::byte>(0x28 + i * 7 % 8);
      }
    }
    view.k = k.data();
    view.v = v.data();
    view.scales = {&scale, &scale, nullptr, 1};
  }
  Buffer k, v;
  std::vector<std::int32_t> pages;
  float scale = 0.01f;
  KvCacheView view;
};

/// `new_tokens` query tokens behind a context; bytes/s counts the cache read once.
void attention(benchmark::State& state, const Heads& heads, int new_tokens) {
  const auto elem_bytes = static_cast<int>(state.range(0));
  const auto context = static_cast<std::int32_t>(state.range(1));
  const auto threads = static_cast<int>(state.range(2));
  cpu::Workspace workspace(threads);
  Cache cache(heads, elem_bytes, std::int64_t{context} + new_tokens);
  const auto floats = static_cast<std::size_t>(new_tokens * heads.query * heads.dim);
  std::vector<float> q(floats, 0.1f), out(floats);
  const SequenceSlice slice{0, new_tokens, context, cache.pages.data()};
  AttentionParams params{.q = q.data(),
                         .out = out.data(),
                         .num_heads = heads.query,
                         .softmax_scale = 1.0f / std::sqrt(static_cast<float>(heads.dim)),
                         .cache = cache.view,
                         .sequences = &slice,
                         .num_sequences = 1};
  for (auto _ : state) cpu::attention(workspace, params);
  const std::int64_t tokens = std::int64_t{context} + new_tokens;
  state.SetBytesProcessed(state.iterations() * tokens * cache.view.layout.bytes_per_token());
}

void decode_smollm2(benchmark::State& state) { attention(state, kSmolLm2, 1); }
void decode_llama8b(benchmark::State& state) { attention(state, kLlama8b, 1); }
void prefill_smollm2(benchmark::State& state) { attention(state, kSmolLm2, 512); }

BENCHMARK(decode_smollm2)
    ->ArgNames({"bytes", "context", "threads"})
    ->ArgsProduct({{2, 1}, {540, 8000}, {1, 2}})
    ->UseRealTime();
BENCHMARK(decode_llama8b)
    ->ArgNames({"bytes", "context", "threads"})
    ->ArgsProduct({{2, 1}, {4000}, {1, 2}})
    ->UseRealTime();
BENCHMARK(prefill_smollm2)
    ->ArgNames({"bytes", "context", "threads"})
    ->ArgsProduct({{2, 1}, {0}, {2}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace kv8
