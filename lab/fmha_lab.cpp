// Checks and times kernel variants: fmha_lab check|time [name part] [csv]. See README.md.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/attention/sm90/prefill/launch.h"
#include "cuda/testing/prefill_problem.h"
#include "fmha_variants.h"

namespace kv8::lab {
namespace {

using cuda_testing::Pattern;
using cuda_testing::PrefillProblem;
using cuda_testing::PrefillProblemSpec;

struct Shape {
  const char* model;
  int heads, kv_heads, head_dim, batch = 1, length = 0;
};

std::vector<Shape> all_shapes() {
  const Shape models[] = {{"Qwen3-0.6B", 16, 8, 128},  {"Qwen3-8B", 32, 8, 128},
                          {"Qwen2.5-7B", 28, 4, 128},  {"Llama-3.2-3B", 24, 8, 128},
                          {"Llama-3.2-1B", 32, 8, 64}, {"Qwen2.5-0.5B", 14, 2, 64}};
  std::vector<Shape> shapes;
  for (Shape s : models) {
    for (int batch : {1, 4, 8}) {
      for (int length : {512, 1024, 4096}) {
        s.batch = batch;
        s.length = length;
        shapes.push_back(s);
      }
    }
  }
  shapes.push_back({"Qwen3-8B-long", 32, 8, 128, 1, 16384});
  shapes.push_back({"Llama-3.2-1B-long", 32, 8, 64, 1, 16384});
  return shapes;
}

PrefillProblemSpec spec_for(const Variant& v) {
  PrefillProblemSpec spec;
  spec.head_dim = v.entry.shape.head_dim;
  spec.kv_type = v.entry.shape.kv_type;
  spec.qk_code_amax = v.entry.shape.score_type == sm90::ScoreType::kF16 ? 14.0f : 448.0f;
  return spec;
}

Status check(const Variant& v) {
  struct Case {
    std::vector<int> q, kv;
    int heads, kv_heads;
    Pattern pattern;
  };
  std::vector<Case> cases = {{{64}, {64}, 1, 1, Pattern::kNormal},
                             {{1000, 77, 1, 320}, {1000, 500, 900, 321}, 4, 2, Pattern::kNormal},
                             {{2048}, {2048}, 28, 4, Pattern::kNormal},
                             {{130, 65, 40, 0, 5}, {2500, 65, 39, 100, 0}, 6, 2, Pattern::kNormal},
                             {{70}, {32768}, 2, 1, Pattern::kFlat},
                             {{6, 67, 129, 190}, {126, 257, 129, 1153}, 3, 1, Pattern::kNormal}};
  for (int p = 2; p < cuda_testing::kNumPatterns; ++p) {
    cases.push_back({{300, 129}, {700, 129}, 4, 2, static_cast<Pattern>(p)});
  }
  std::printf("%-16s", v.name);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    PrefillProblemSpec spec = spec_for(v);
    spec.q_lens = cases[i].q;
    spec.kv_lens = cases[i].kv;
    spec.num_heads = cases[i].heads;
    spec.num_kv_heads = cases[i].kv_heads;
    spec.pattern = cases[i].pattern;
    spec.scale_per_head = i == 1 && v.entry.shape.kv_type == sm90::KvType::kE4m3;
    spec.v_offset = i == 1;
    spec.out_type = i == 1 ? sm90::OutType::kBf16 : sm90::OutType::kF16;
    PrefillProblem problem = KV8_TRY(PrefillProblem::create(spec));
    KV8_TRY(problem.poison_output());
    const auto prepared = KV8_TRY(prepare_prefill(problem.args(v.entry.shape.score_type), v.entry));
    KV8_TRY(prepared.launch(nullptr));
    const cudaError_t code = cudaDeviceSynchronize();
    if (code != cudaSuccess) {
      std::printf(" case %zu: %s\n", i, cudaGetErrorString(code));
      return unsupported("stopped");
    }
    const auto error = KV8_TRY(problem.compare(4000));
    std::printf(" %.2e%s", error.relative,
                error.not_finite ? fmt::format("({} nan)", error.not_finite).c_str() : "");
    std::fflush(stdout);
    const auto first = KV8_TRY(problem.output());
    KV8_TRY(prepared.launch(nullptr));
    const auto second = KV8_TRY(problem.output());
    if (first != second) std::printf("(differs)");
  }
  std::printf("\n");
  return {};
}

Status time_shapes(const Variant& v, std::FILE* csv, int min_length, int max_length,
                   int settle_ms) {
  void* flush = nullptr;
  const std::size_t flush_bytes = std::size_t{256} << 20;
  cudaMalloc(&flush, flush_bytes);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (const Shape& s : all_shapes()) {
    if (s.head_dim != v.entry.shape.head_dim || s.length < min_length || s.length > max_length)
      continue;
    PrefillProblemSpec spec = spec_for(v);
    spec.q_lens.assign(s.batch, s.length);
    spec.kv_lens = spec.q_lens;
    spec.num_heads = s.heads;
    spec.num_kv_heads = s.kv_heads;
    PrefillProblem problem = KV8_TRY(PrefillProblem::create(spec));
    const auto prepared = KV8_TRY(prepare_prefill(problem.args(v.entry.shape.score_type), v.entry));
    std::vector<float> times;
    const auto once = [&]() -> Status {
      cudaMemsetAsync(flush, static_cast<int>(times.size() & 255), flush_bytes);
      cudaEventRecord(begin);
      KV8_TRY(prepared.launch(nullptr));
      cudaEventRecord(end);
      cudaEventSynchronize(end);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      times.push_back(ms * 1000.0f);
      return {};
    };
    KV8_TRY(once());
    const int warm =
        s.length >= 4096 ? std::max(5, int(settle_ms * 1000 / std::max(times[0], 10.f))) : 15;
    for (int i = 0; i < std::min(warm, 20000); ++i) {
      if (s.length >= 4096) {
        KV8_TRY(prepared.launch(nullptr));
      } else {
        KV8_TRY(once());
      }
    }
    times.clear();
    for (int i = 0; i < 40; ++i) KV8_TRY(once());
    const cudaError_t code = cudaGetLastError();
    if (code != cudaSuccess) return unsupported("{}: {}", v.name, cudaGetErrorString(code));
    std::sort(times.begin(), times.end());
    const double us = times[times.size() / 2];
    const double tflops =
        2.0 * s.batch * s.heads * double(s.head_dim) * s.length * s.length / us * 1e-6;
    std::fprintf(csv, "%s,%s,%d,%d,%d,%d,%d,%.2f,%.0f\n", v.name, s.model, s.heads, s.kv_heads,
                 s.head_dim, s.batch, s.length, us, tflops);
    std::fflush(csv);
  }
  cudaFree(flush);
  return {};
}

}  // namespace
}  // namespace kv8::lab

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  const char* filter = argc > 2 ? argv[2] : "";
  std::FILE* csv = argc > 3 ? std::fopen(argv[3], "a") : stdout;
  const int min_length = argc > 4 ? std::atoi(argv[4]) : 0;
  const int max_length = argc > 5 ? std::atoi(argv[5]) : 1 << 20;
  const int settle = argc > 6 ? std::atoi(argv[6]) : 100;
  bool ok = true;
  for (const auto& v : kv8::lab::variants()) {
    if (!std::strstr(v.name, filter)) continue;
    if (mode == "list") {
      std::printf("%s\n", v.name);
      continue;
    }
    const auto status = mode == "check"
                            ? kv8::lab::check(v)
                            : kv8::lab::time_shapes(v, csv, min_length, max_length, settle);
    if (!status.ok()) {
      std::printf("%s: %s\n", v.name, status.error().message.c_str());
      ok = false;
      break;
    }
  }
  return ok ? 0 : 1;
}
