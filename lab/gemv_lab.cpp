// Times variants of the gemv kernel, and chains of it as a decode step has them:
// gemv_lab variants [rows] | chain | sample. See README.md.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/dense/gemv/launch.h"
#include "cuda/dense/rows/launch.h"
#include "cuda/dense/sample/launch.h"
#include "cuda/testing/memory_ceilings.h"
#include "gemv_variants.h"

namespace kv8::lab {
namespace {

struct Shape {
  const char* name;
  int in, out;
  bool swiglu = false, norm = false;
  double bytes() const { return 2.0 * in * out * (swiglu ? 2 : 1); }
};

const std::vector<Shape> kQwen = {{"8B qkv", 4096, 6144, false, true},
                                  {"8B o", 4096, 4096},
                                  {"8B gate_up", 4096, 12288, true, true},
                                  {"8B down", 12288, 4096}};
const std::vector<Shape> kLlama = {{"1B qkv", 2048, 3072, false, true},
                                   {"1B o", 2048, 2048},
                                   {"1B gate_up", 2048, 8192, true, true},
                                   {"1B down", 8192, 2048}};
const std::vector<Shape> kSmall = {{"135M qkv", 576, 960, false, true},
                                   {"135M o", 576, 576},
                                   {"135M gate_up", 576, 1536, true, true},
                                   {"135M down", 1536, 576}};
const std::vector<Shape> kHeads = {{"8B lm_head", 4096, 151936}, {"1B lm_head", 2048, 128256}};

void must(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::printf("%s\n", cudaGetErrorString(code));
  std::exit(1);
}

void* allocate(std::size_t bytes) {
  void* data = nullptr;
  must(cudaMalloc(&data, bytes));
  must(cudaMemset(data, 0, bytes));
  return data;
}

/// Weights far larger than the second-level cache, small random values; activations apart.
struct Arena {
  static constexpr std::size_t kBytes = std::size_t{4} << 30;
  char* weights = nullptr;
  char* activations = nullptr;
  std::size_t used = 0;
  Arena() {
    must(cudaMalloc(reinterpret_cast<void**>(&weights), kBytes));
    must(cudaMemset(weights, 0x11, kBytes));
    must(cudaMalloc(reinterpret_cast<void**>(&activations), std::size_t{64} << 20));
    must(cudaMemset(activations, 0x11, std::size_t{64} << 20));
  }
  /// The next matrix, from the start again when the arena ends.
  const void* next(double bytes) {
    const auto size = static_cast<std::size_t>(bytes);
    if (used + size > kBytes) used = 0;
    const void* data = weights + used;
    used += size;
    return data;
  }
};

GemvArgs args_of(const Shape& s, int rows, Arena& arena, bool dependent, bool fused) {
  GemvArgs a;
  a.x = arena.activations;
  a.weight = arena.next(s.bytes());
  a.out = arena.activations + (16 << 20);
  a.rows = rows;
  a.in = s.in;
  a.out_features = s.out;
  a.swiglu = fused && s.swiglu;
  if (s.swiglu && !fused) a.out_features *= 2;
  if (fused && s.norm) a.norm_weight = arena.activations + (8 << 20);
  if (fused && !s.norm) a.f32_out = true, a.residual = static_cast<const float*>(a.out);
  a.dependent_launch = dependent;
  return a;
}

/// Microseconds of one replay of the captured launches: best of `replays`.
double time_graph(int replays, const std::function<void(cudaStream_t)>& launches) {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launches(stream);
  cudaGraph_t graph;
  must(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec;
  must(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  must(cudaEventCreate(&begin));
  must(cudaEventCreate(&end));
  double best = 1e30;
  for (int i = 0; i < replays; ++i) {
    must(cudaEventRecord(begin, stream));
    must(cudaGraphLaunch(exec, stream));
    must(cudaEventRecord(end, stream));
    must(cudaEventSynchronize(end));
    float ms = 0;
    must(cudaEventElapsedTime(&ms, begin, end));
    best = std::min(best, 1000.0 * ms);
  }
  must(cudaGraphExecDestroy(exec));
  must(cudaGraphDestroy(graph));
  must(cudaEventDestroy(begin));
  must(cudaEventDestroy(end));
  must(cudaStreamDestroy(stream));
  return best;
}

int multiprocessors() {
  int count = 0;
  must(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

/// The first launches behind an idle time take a quarter longer.
void warm_up() {
  Arena arena;
  for (int i = 0; i < 60; ++i) {
    time_graph(1, [&](cudaStream_t stream) {
      for (int j = 0; j < 10; ++j) {
        if (!launch_gemv(args_of(kQwen[2], 1, arena, true, true), stream).ok()) std::exit(1);
      }
    });
  }
}

/// Every variant on every matrix: one replay is a chain of launches on different weights.
void compare_variants(int rows, double read_gb_s) {
  Arena arena;
  std::vector<Shape> shapes = kQwen;
  shapes.insert(shapes.end(), kHeads.begin(), kHeads.end());
  shapes.insert(shapes.end(), kLlama.begin(), kLlama.end());
  std::printf("%d rows, %% of the read bandwidth, plain / dependent launches\n%-18s", rows, "");
  for (const Shape& s : shapes) std::printf(" %11s", s.name);
  std::printf("\n");
  for (const GemvVariant& v : gemv_variants()) {
    std::printf("%-18s", v.name);
    for (const Shape& s : shapes) {
      double percent[2] = {};
      for (const bool dependent : {false, true}) {
        const int launches = std::clamp(static_cast<int>(1.5e9 / s.bytes()), 1, 40);
        cudaError_t code = cudaSuccess;
        const double us = time_graph(4, [&](cudaStream_t stream) {
          for (int i = 0; i < launches && code == cudaSuccess; ++i) {
            code = v.without(args_of(s, rows, arena, dependent, false), multiprocessors(), stream);
          }
        });
        cudaGetLastError();
        percent[dependent] =
            code == cudaSuccess ? 1e-3 * s.bytes() * launches / us / read_gb_s * 100 : -1;
      }
      std::printf(" %5.1f/%5.1f", percent[0], percent[1]);
    }
    std::printf("\n");
  }
}

/// One layer's products: the norm fused, or in a kernel of its own.
cudaError_t launch_layer(const std::vector<Shape>& layer, const GemvVariant& v, bool fused,
                         int rows, Arena& arena, cudaStream_t stream) {
  for (const Shape& s : layer) {
    GemvArgs a = args_of(s, rows, arena, true, true);
    if (!fused && a.norm_weight != nullptr) {
      RmsNormArgs norm;
      norm.x = static_cast<const float*>(a.x);
      norm.weight = a.norm_weight;
      norm.out = arena.activations + (32 << 20);
      norm.rows = rows;
      norm.cols = s.in;
      norm.dependent_launch = true;
      if (!launch_rms_norm(norm, stream).ok()) return cudaErrorInvalidValue;
      a.x = norm.out;
      a.norm_weight = nullptr;
    }
    const GemvStart start = a.norm_weight != nullptr ? v.with_norm : v.without;
    const cudaError_t code = start(a, multiprocessors(), stream);
    if (code != cudaSuccess) return code;
  }
  return cudaSuccess;
}

/// The matrices of some layers in their order, norm and SwiGLU fused, as a decode step has them.
void time_chains(double read_gb_s) {
  Arena arena;
  std::printf(
      "chains of dependent products with norm, SwiGLU, residual: %% of the read bandwidth\n%-18s",
      "");
  for (const char* name : {"8B", "1B", "135M"}) {
    for (const int rows : {1, 2, 4, 8}) std::printf("  %s r%d", name, rows);
  }
  std::printf("\n");
  for (const GemvVariant& v : gemv_variants()) {
    for (const bool fused : {true, false}) {
      std::printf("%-11s %-6s", v.name, fused ? "fused" : "apart");
      for (const auto& layer : {kQwen, kLlama, kSmall}) {
        double bytes = 0;
        for (const Shape& s : layer) bytes += s.bytes();
        const int layers = std::min(static_cast<int>(3e9 / bytes), 30);
        for (const int rows : {1, 2, 4, 8}) {
          cudaError_t code = cudaSuccess;
          const double us = time_graph(5, [&](cudaStream_t stream) {
            for (int i = 0; i < layers && code == cudaSuccess; ++i) {
              code = launch_layer(layer, v, fused, rows, arena, stream);
            }
          });
          cudaGetLastError();
          const double percent = 1e-3 * bytes * layers / us / read_gb_s * 100;
          std::printf("  %5.1f", code == cudaSuccess ? percent : -1.0);
        }
      }
      std::printf("\n");
    }
  }
}

/// Sampling of rows of normal logits, one launch a replay.
void time_sampling() {
  constexpr int kMaxRows = 64;
  for (const int vocab : {49152, 151936}) {
    std::vector<float> logits(std::size_t(kMaxRows) * vocab);
    unsigned state = 1;
    for (float& x : logits) {
      float sum = 0;
      for (int i = 0; i < 4; ++i)
        sum += static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
      x = 5.0f * (sum - 2.0f);
    }
    SampleArgs a;
    auto* device_logits = static_cast<float*>(allocate(logits.size() * 4));
    auto* settings = static_cast<SampleSettings*>(allocate(kMaxRows * sizeof(SampleSettings)));
    must(cudaMemcpy(device_logits, logits.data(), logits.size() * 4, cudaMemcpyHostToDevice));
    a.logits = device_logits;
    a.tokens = static_cast<SampleToken*>(allocate(kMaxRows * sizeof(SampleToken)));
    a.top = static_cast<SampleTop*>(allocate(kMaxRows * kSampleMaxLogprobs * sizeof(SampleTop)));
    a.workspace = allocate(sample_workspace_bytes(kMaxRows));
    a.settings = settings;
    a.vocab = vocab;
    struct Kind {
      const char* name;
      SampleSettings s;
    };
    const Kind kinds[] = {{"greedy", {1, 2, 0.0f, 1.0f, 0, 0}},
                          {"temperature", {1, 2, 0.8f, 1.0f, 0, 0}},
                          {"top_p 0.9", {1, 2, 0.8f, 0.9f, 0, 0}},
                          {"top_k 50, top_p 0.8", {1, 2, 1.0f, 0.8f, 50, 0}},
                          {"the same, 20 logprobs", {1, 2, 1.0f, 0.8f, 50, 20}},
                          {"top_p 0.9, 20 logprobs", {1, 2, 0.8f, 0.9f, 0, 20}},
                          {"greedy, 20 logprobs", {1, 2, 0.0f, 1.0f, 0, 20}},
                          {"top_k 100", {1, 2, 0.8f, 1.0f, 100, 0}}};
    for (const Kind& kind : kinds) {
      std::printf("sample %6d %-22s us:", vocab, kind.name);
      const std::vector<SampleSettings> all(kMaxRows, kind.s);
      must(cudaMemcpy(settings, all.data(), all.size() * sizeof(SampleSettings),
                      cudaMemcpyHostToDevice));
      a.few_logits = needs_few_logits(kind.s);
      for (const int rows : {1, 8, 64}) {
        a.rows = rows;
        const double us = time_graph(10, [&](cudaStream_t stream) {
          for (int i = 0; i < 10; ++i) {
            if (!launch_sample(a, stream).ok()) std::printf("refused\n");
          }
        });
        std::printf("  %d rows %.1f", rows, us / 10);
      }
      std::printf("\n");
    }
  }
}

}  // namespace
}  // namespace kv8::lab

int main(int argc, char** argv) {
  using namespace kv8;
  const std::string what = argc > 1 ? argv[1] : "chain";
  if (what == "sample") {
    lab::time_sampling();
    return 0;
  }
  const auto ceilings = cuda_testing::measure_memory();
  if (!ceilings.ok()) {
    std::printf("%s\n", ceilings.error().message.c_str());
    return 1;
  }
  std::printf("read bandwidth %.0f GB/s\n", ceilings->read_gb_s);
  kv8::lab::warm_up();
  if (what == "variants") {
    lab::compare_variants(argc > 2 ? std::atoi(argv[2]) : 1, ceilings->read_gb_s);
  } else {
    lab::time_chains(ceilings->read_gb_s);
  }
  return 0;
}
