// Checks and times kernel variants: see README.md.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/attention/sm90/prefill/launch.h"
#include "cuda/attention/sm90/prefill/select.h"
#include "cuda/testing/gpu_timer.h"
#include "cuda/testing/prefill_problem.h"
#include "fmha_variants.h"

namespace kv8::lab {
namespace {

using cuda_testing::GpuTimer;
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

/// A variant on a problem: with as many heads a tile as the product packs, or with one.
struct Run {
  std::string name;
  sm90::KernelShape shape;
  sm90::PreparedPrefill prepared;
  std::vector<double> times;
};

/// Whether `name` contains one of the parts of "part,part".
bool wanted(const std::string& name, const std::string& parts) {
  for (std::size_t at = 0; at <= parts.size();) {
    const std::size_t end = std::min(parts.find(',', at), parts.size());
    if (name.find(parts.substr(at, end - at)) != std::string::npos) return true;
    at = end + 1;
  }
  return false;
}

/// Problems of the element types and score ranges that variants need.
struct Problems {
  PrefillProblem f16, fp8, fp8_wide;

  static Result<Problems> create(PrefillProblemSpec spec) {
    spec.qk_code_amax = 14.0f;
    PrefillProblem fp8 = KV8_TRY(PrefillProblem::create(spec));
    spec.qk_code_amax = 448.0f;
    PrefillProblem wide = KV8_TRY(PrefillProblem::create(spec));
    spec.kv_type = KvType::kF16;
    spec.scale_per_head = false;
    PrefillProblem f16 = KV8_TRY(PrefillProblem::create(spec));
    return Problems{std::move(f16), std::move(fp8), std::move(wide)};
  }
  PrefillProblem& of(const sm90::KernelShape& shape) {
    if (shape.kv_type == KvType::kF16) return f16;
    return shape.score_type == ScoreType::kF16 ? fp8 : fp8_wide;
  }
};

/// `modes`: "1" one query head a tile, "p" as many as can share one.
Result<std::vector<Run>> prepare(Problems& problems, int head_dim, const std::string& parts,
                                 const std::string& modes) {
  std::vector<Run> runs;
  for (const Variant& v : variants()) {
    if (v.entry.shape.head_dim != head_dim || !wanted(v.name, parts)) continue;
    const PrefillArgs args = problems.of(v.entry.shape).args(v.entry.shape.score_type);
    const int packable = sm90::packable_heads(args.num_heads / args.num_kv_heads);
    for (char mode : modes) {
      if (mode == 'p' && packable == 1) continue;
      const int packed = mode == 'p' ? packable : 1;
      runs.push_back({fmt::format("{}/{}", v.name, mode),
                      v.entry.shape,
                      KV8_TRY(prepare_prefill(args, v.entry, packed)),
                      {}});
    }
  }
  return runs;
}

Status check_case(const PrefillProblemSpec& spec, const std::string& what,
                  const std::string& parts) {
  Problems problems = KV8_TRY(Problems::create(spec));
  std::printf("%s\n", what.c_str());
  for (const Run& run : KV8_TRY(prepare(problems, spec.head_dim, parts, "1p"))) {
    PrefillProblem& problem = problems.of(run.shape);
    KV8_TRY(problem.poison_output());
    KV8_TRY(run.prepared.launch(nullptr));
    const auto first = KV8_TRY(problem.output());
    const auto error = KV8_TRY(problem.compare(600));
    KV8_TRY(run.prepared.launch(nullptr));
    const auto second = KV8_TRY(problem.output());
    const double limit = run.shape.kv_type == KvType::kF16 ? 4e-3 : 2.6e-2;
    const bool good = error.relative <= limit && error.not_finite == 0 && first == second;
    std::printf("  %-18s %.2e%s%s\n", run.name.c_str(), error.relative,
                first == second ? "" : " two runs differ", good ? "" : " BAD");
    std::fflush(stdout);
  }
  return {};
}

Status check(const std::string& parts) {
  struct Case {
    std::vector<int> q, kv;
    int heads, kv_heads;
    Pattern pattern;
  };
  std::vector<Case> cases = {{{64}, {64}, 1, 1, Pattern::kNormal},
                             {{1000, 77, 1, 320}, {1000, 500, 900, 321}, 4, 2, Pattern::kNormal},
                             {{2048}, {2048}, 28, 4, Pattern::kNormal},
                             {{130, 65, 40, 0, 5}, {2500, 65, 39, 100, 0}, 6, 2, Pattern::kNormal},
                             {{6, 67, 129, 190}, {126, 257, 129, 1153}, 8, 1, Pattern::kNormal},
                             {{300, 129}, {700, 129}, 4, 2, Pattern::kOneHot},
                             {{300, 129}, {700, 129}, 4, 2, Pattern::kFarBelow}};
  for (int head_dim : {128, 64}) {
    for (std::size_t i = 0; i < cases.size(); ++i) {
      PrefillProblemSpec spec;
      spec.head_dim = head_dim;
      spec.q_lens = cases[i].q;
      spec.kv_lens = cases[i].kv;
      spec.num_heads = cases[i].heads;
      spec.num_kv_heads = cases[i].kv_heads;
      spec.pattern = cases[i].pattern;
      spec.scale_per_head = spec.v_offset = i == 1;
      spec.out_type = i == 1 ? OutType::kBf16 : OutType::kF16;
      KV8_TRY(check_case(spec, fmt::format("d {} case {}", head_dim, i), parts));
    }
  }
  return {};
}

Status time_shapes(const std::string& parts, std::FILE* csv, int min_length, int max_length,
                   const std::string& models, double settle_ms, const std::string& modes) {
  GpuTimer timer = KV8_TRY(GpuTimer::create());
  for (const Shape& s : all_shapes()) {
    if (s.length < min_length || s.length > max_length || !wanted(s.model, models)) continue;
    PrefillProblemSpec spec;
    spec.head_dim = s.head_dim;
    spec.q_lens.assign(s.batch, s.length);
    spec.kv_lens = spec.q_lens;
    spec.num_heads = s.heads;
    spec.num_kv_heads = s.kv_heads;
    Problems problems = KV8_TRY(Problems::create(spec));
    std::vector<Run> runs = KV8_TRY(prepare(problems, s.head_dim, parts, modes));
    std::vector<std::function<Status()>> launches;
    for (const Run& run : runs) launches.push_back([&] { return run.prepared.launch(nullptr); });
    if (s.length >= 4096) KV8_TRY(timer.run_for(settle_ms, launches));
    const int warmup = s.length >= 4096 ? 1 : 40, repeats = s.length >= 4096 ? 15 : 40;
    for (int i = 0; i < warmup + repeats; ++i) {
      for (std::size_t r = 0; r < runs.size(); ++r) {
        const double us = KV8_TRY(timer.time_cold(launches[r]));
        if (i >= warmup) runs[r].times.push_back(us);
      }
    }
    for (Run& run : runs) {
      std::sort(run.times.begin(), run.times.end());
      const double us = run.times[run.times.size() / 2];
      const double tflops =
          2.0 * s.batch * s.heads * double(s.head_dim) * s.length * s.length / us * 1e-6;
      std::fprintf(csv, "%s,%s,%d,%d,%d,%d,%d,%.2f,%.0f\n", run.name.c_str(), s.model, s.heads,
                   s.kv_heads, s.head_dim, s.batch, s.length, us, tflops);
    }
    std::fflush(csv);
  }
  return {};
}

}  // namespace
}  // namespace kv8::lab

int main(int argc, char** argv) {
  const auto text = [&](int i, const char* otherwise) { return argc > i ? argv[i] : otherwise; };
  const auto number = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  const std::string mode = text(1, "list"), parts = text(2, "");
  kv8::Status status;
  if (mode == "check") {
    status = kv8::lab::check(parts);
  } else if (mode == "time") {
    std::FILE* csv = argc > 3 ? std::fopen(argv[3], "a") : stdout;
    if (csv == nullptr) return 1;
    status = kv8::lab::time_shapes(parts, csv, number(4, 0), number(5, 1 << 20), text(6, ""),
                                   number(7, 100), text(8, "1"));
  } else {
    for (const auto& v : kv8::lab::variants()) std::printf("%s\n", v.name);
  }
  if (!status.ok()) std::printf("%s\n", status.error().message.c_str());
  return status.ok() ? 0 : 1;
}
