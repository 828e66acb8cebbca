#include "bench/decode.h"

#include "bench/plot.h"
#include "bench/shape_text.h"
#include "bench/spread.h"

#if KV8_HAS_CUDA
#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

#include "cuda/attention/attention.h"
#include "cuda/testing/gpu_timer.h"
#include "cuda/testing/memory_ceilings.h"
#include "cuda/testing/prefill_problem.h"
#endif

namespace kv8::bench {

std::vector<DecodeShapeSpec> decode_bench_shapes() {
  std::vector<DecodeShapeSpec> shapes;
  for (int head_dim : {128, 64}) {
    for (int batch : {1, 8, 64}) {
      for (int context : {1024, 4096, 32768, 131072})
        shapes.push_back({32, 8, head_dim, batch, context});
    }
  }
  return shapes;
}

Result<DecodeShapeSpec> parse_decode_shape(const std::string& text) {
  const std::vector<int> n = KV8_TRY(parse_shape(text, "heads,kv_heads,head_dim,batch,context"));
  return DecodeShapeSpec{n[0], n[1], n[2], n[3], n[4]};
}

#if KV8_HAS_CUDA
namespace {

/// Whether both caches and what a run needs besides fit in the device's memory.
bool fits(const DecodeShapeSpec& shape) {
  std::size_t available = 0, total = 0;
  if (cudaMemGetInfo(&available, &total) != cudaSuccess) return false;
  const double fp8_bytes = 2.0 * shape.num_kv_heads * shape.head_dim * shape.batch * shape.context;
  return 3.0 * fp8_bytes + 1e9 < static_cast<double>(available);
}

struct Problem {
  cuda_testing::PrefillProblem data;
  DecodeArgs args;
  std::shared_ptr<void> workspace;
};

Result<Problem> make_problem(const DecodeShapeSpec& shape, KvType type) {
  cuda_testing::PrefillProblemSpec spec;
  spec.q_lens.assign(static_cast<std::size_t>(shape.batch), 1);
  spec.kv_lens.assign(static_cast<std::size_t>(shape.batch), shape.context);
  spec.num_heads = shape.num_heads;
  spec.num_kv_heads = shape.num_kv_heads;
  spec.head_dim = shape.head_dim;
  spec.kv_type = type;
  Problem problem{KV8_TRY(cuda_testing::PrefillProblem::create(spec)), {}, nullptr};
  DecodeArgs& a = problem.args = problem.data.decode_args();
  const std::size_t bytes = KV8_TRY(decode_workspace_bytes(a));
  if (cudaMalloc(&a.workspace, bytes) != cudaSuccess ||
      cudaMemset(a.workspace, 0, bytes) != cudaSuccess) {
    return capacity_error("decode benchmark: no memory for a workspace of {} bytes", bytes);
  }
  problem.workspace = {a.workspace, [](void* p) { cudaFree(p); }};
  return problem;
}

/// Relative error of one launch; a wrong kernel is not worth timing.
Result<double> check(Problem& problem) {
  KV8_TRY(problem.data.poison_output());
  KV8_TRY(launch_decode(problem.args, nullptr));
  const auto error = KV8_TRY(problem.data.compare(32));
  if (error.not_finite > 0 || error.relative > 2e-3) {
    return unsupported("decode benchmark: relative error {:.2e}, {} values not finite",
                       error.relative, error.not_finite);
  }
  return error.relative;
}

}  // namespace

Result<DecodeBenchResult> bench_decode(const DecodeBenchOptions& options) {
  DecodeBenchResult result;
  result.device = KV8_TRY(cuda_testing::device_name());
  const auto memory = KV8_TRY(cuda_testing::measure_memory());
  result.hbm_read_gb_s = memory.read_gb_s;
  result.hbm_read_clean_gb_s = memory.read_clean_gb_s;
  cuda_testing::GpuTimer timer = KV8_TRY(cuda_testing::GpuTimer::create());
  for (const DecodeShapeSpec& shape :
       options.shapes.empty() ? decode_bench_shapes() : options.shapes) {
    if (!fits(shape)) {
      result.left_out.push_back(shape);
      continue;
    }
    DecodeBenchRow row;
    row.shape = shape;
    row.kv_bytes_fp8 =
        std::int64_t{2} * shape.num_kv_heads * shape.head_dim * shape.batch * shape.context;
    Problem half = KV8_TRY(make_problem(shape, KvType::kF16));
    Problem fp8 = KV8_TRY(make_problem(shape, KvType::kE4m3));
    row.fp16_error = KV8_TRY(check(half));
    row.fp8_error = KV8_TRY(check(fp8));
    const std::function<Status()> launch16 = [&] { return launch_decode(half.args, nullptr); };
    const std::function<Status()> launch8 = [&] { return launch_decode(fp8.args, nullptr); };
    KV8_TRY(timer.run_for(options.settle_ms, {launch16, launch8}));
    const auto time = [&](cuda_testing::ColdCache cache) -> Result<DecodeTimes> {
      std::vector<double> times16, times8;
      for (int i = 0; i < options.repeats; ++i) {
        times16.push_back(KV8_TRY(timer.time_cold(launch16, cache)));
        times8.push_back(KV8_TRY(timer.time_cold(launch8, cache)));
      }
      // The FP16 keys are as many bytes as FP8 keys and values.
      const double read_us = KV8_TRY(cuda_testing::time_plain_read(
          timer, half.args.k_pool, static_cast<std::size_t>(row.kv_bytes_fp8), options.repeats,
          cache));
      return DecodeTimes{spread_of(std::move(times16)).median, spread_of(std::move(times8)).median,
                         read_us};
    };
    row.dirty = KV8_TRY(time(cuda_testing::ColdCache::kDirty));
    row.clean = KV8_TRY(time(cuda_testing::ColdCache::kClean));
    result.rows.push_back(row);
  }
  return result;
}

#else
Result<DecodeBenchResult> bench_decode(const DecodeBenchOptions&) {
  return unsupported("this kv8 was built without CUDA; configure with -DKV8_CUDA=ON");
}
#endif

namespace {

std::string name_of(const DecodeShapeSpec& s) {
  return fmt::format("({},{},{}) batch {} context {}", s.num_heads, s.num_kv_heads, s.head_dim,
                     s.batch, s.context);
}

}  // namespace

std::string decode_bench_table(const DecodeBenchResult& result) {
  std::string text = fmt::format(
      "{}: decode attention, cold L2, medians of event pairs. Left: 256 MiB written before each "
      "launch, which\nwrites their last lines back from L2; HBM read {:.0f} GB/s measured so. "
      "Right: 256 MiB read, no line\nto write back; HBM read {:.0f} GB/s. read us: a plain kernel "
      "reading as many bytes as the FP8 cache has.\n"
      "heads      batch context |  fp16 us    fp8 us  speed-up fp8 of read   read us |   fp16 us   "
      " fp8 us  speed-up fp8 of read   read us | fp16 error fp8 error\n",
      result.device, result.hbm_read_gb_s, result.hbm_read_clean_gb_s);
  for (const DecodeBenchRow& r : result.rows) {
    const auto cells = [&r](const DecodeTimes& t, double read_gb_s) {
      return fmt::format("{:>9.2f} {:>9.2f} {:>9.2f} {:>10.1f}% {:>9.2f}", t.fp16_us, t.fp8_us,
                         t.fp16_us / t.fp8_us,
                         100 * gb_per_s(static_cast<double>(r.kv_bytes_fp8), t.fp8_us) / read_gb_s,
                         t.read_us);
    };
    text += fmt::format("({},{},{:>3}) {:>4} {:>7} |{} | {} |   {:.2e}  {:.2e}\n",
                        r.shape.num_heads, r.shape.num_kv_heads, r.shape.head_dim, r.shape.batch,
                        r.shape.context, cells(r.dirty, result.hbm_read_gb_s),
                        cells(r.clean, result.hbm_read_clean_gb_s), r.fp16_error, r.fp8_error);
  }
  for (const DecodeShapeSpec& shape : result.left_out) {
    text += fmt::format("{}: left out, does not fit in the device's memory\n", name_of(shape));
  }
  return text;
}

std::string decode_bench_json(const DecodeBenchResult& result, const std::string& command) {
  std::string text = fmt::format(
      "{{\n  \"device\": \"{}\",\n  \"command\": \"{}\",\n  \"hbm_read_gb_s\": {:.1f},\n  "
      "\"hbm_read_clean_gb_s\": {:.1f},\n  \"rows\": [",
      result.device, command, result.hbm_read_gb_s, result.hbm_read_clean_gb_s);
  const char* comma = "\n";
  for (const DecodeBenchRow& r : result.rows) {
    text += fmt::format(
        "{}    {{\"num_heads\": {}, \"num_kv_heads\": {}, \"head_dim\": {}, \"batch\": {}, "
        "\"context\": {}, \"kv_bytes_fp8\": {}, "
        "\"fp16_us\": {:.2f}, \"fp8_us\": {:.2f}, \"fp8_gb_s\": {:.1f}, \"plain_read_us\": {:.2f}, "
        "\"fp16_clean_us\": {:.2f}, \"fp8_clean_us\": {:.2f}, \"plain_read_clean_us\": {:.2f}}}",
        comma, r.shape.num_heads, r.shape.num_kv_heads, r.shape.head_dim, r.shape.batch,
        r.shape.context, r.kv_bytes_fp8, r.dirty.fp16_us, r.dirty.fp8_us,
        gb_per_s(static_cast<double>(r.kv_bytes_fp8), r.dirty.fp8_us), r.dirty.read_us,
        r.clean.fp16_us, r.clean.fp8_us, r.clean.read_us);
    comma = ",\n";
  }
  return text + "\n  ]\n}\n";
}

std::string decode_bench_svg(const DecodeBenchResult& result) {
  std::vector<RatioBar> bars;
  for (const DecodeBenchRow& r : result.rows) {
    bars.push_back({name_of(r.shape), r.dirty.fp16_us / r.dirty.fp8_us});
  }
  return ratio_chart_svg(
      fmt::format("Decode attention on {}: time with an FP16 cache / with FP8", result.device),
      bars);
}

}  // namespace kv8::bench
