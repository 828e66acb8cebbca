#include "bench/kv_write.h"

#include "bench/plot.h"
#include "bench/shape_text.h"
#include "bench/spread.h"

#if KV8_HAS_CUDA
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <random>

#include "cuda/kv_write/launch.h"
#include "cuda/testing/gpu_timer.h"
#include "cuda/testing/memory_ceilings.h"
#include "cuda/testing/memory_kernels.h"
#include "ops/kv_layout.h"
#endif

namespace kv8::bench {

std::vector<WriteShapeSpec> write_bench_shapes() {
  std::vector<WriteShapeSpec> shapes;
  for (int head_dim : {128, 64}) {
    for (int tokens : {1, 8, 64, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768}) {
      shapes.push_back({32, 8, head_dim, tokens});
    }
  }
  return shapes;
}

Result<WriteShapeSpec> parse_write_shape(const std::string& text) {
  const std::vector<int> n = KV8_TRY(parse_shape(text, "heads,kv_heads,head_dim,tokens"));
  return WriteShapeSpec{n[0], n[1], n[2], n[3]};
}

#if KV8_HAS_CUDA
namespace {

constexpr int kDecodeTokens = 64;

/// Keeps device memory alive.
class Arena {
 public:
  Result<void*> take(std::size_t bytes) {
    void* data = nullptr;
    if (cudaMalloc(&data, bytes) != cudaSuccess) {
      return capacity_error("write benchmark: no memory for {} bytes", bytes);
    }
    blocks_.push_back({data, [](void* p) { cudaFree(p); }});
    return data;
  }
  template <class T>
  Result<T*> upload(const std::vector<T>& values) {
    void* data = KV8_TRY(take(values.size() * sizeof(T)));
    if (cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice) !=
        cudaSuccess) {
      return unsupported("write benchmark: upload of {} bytes failed", values.size() * sizeof(T));
    }
    return static_cast<T*>(data);
  }

 private:
  std::vector<std::shared_ptr<void>> blocks_;
};

/// Everything but what differs between FP16 and FP8.
Result<KvWriteArgs> make_args(const WriteShapeSpec& shape, Arena& arena) {
  const bool decode = shape.tokens <= kDecodeTokens;
  const int batch = decode ? shape.tokens : 1, past = decode ? 1000 : 0;
  KvWriteArgs a;
  a.batch = batch;
  a.rows = shape.tokens;
  a.max_rows_per_sequence = shape.tokens / batch;
  a.num_heads = shape.num_heads;
  a.num_kv_heads = shape.num_kv_heads;
  a.head_dim = shape.head_dim;
  const int kv_len = past + a.max_rows_per_sequence;
  a.max_pages = static_cast<int>(pages_for_tokens(kv_len));
  std::vector<std::int32_t> table(static_cast<std::size_t>(batch) * a.max_pages), cu_rows, lens;
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i);
  for (int b = 0; b <= batch; ++b) cu_rows.push_back(b * a.max_rows_per_sequence);
  lens.assign(static_cast<std::size_t>(batch), kv_len);
  a.page_table = KV8_TRY(arena.upload(table));
  a.cu_rows = KV8_TRY(arena.upload(cu_rows));
  a.kv_lens = KV8_TRY(arena.upload(lens));
  RopeConfig config;
  config.head_dim = shape.head_dim;
  const RopeAngleTable angles = make_rope_angles(KV8_TRY(make_rope_table(config)), kv_len);
  a.cos = KV8_TRY(arena.upload(angles.cos));
  a.sin = KV8_TRY(arena.upload(angles.sin));
  const std::size_t columns =
      static_cast<std::size_t>(shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  std::vector<std::uint16_t> qkv(columns * static_cast<std::size_t>(shape.tokens));
  std::minstd_rand random(1);
  for (auto& x : qkv) {
    x = static_cast<std::uint16_t>((random() >> 8 & 0x83ff) | 0x3800);  // +-0.5 .. 1
  }
  a.qkv = KV8_TRY(arena.upload(qkv));
  const std::size_t pool = table.size() * kPageTokens *
                           static_cast<std::size_t>(shape.num_kv_heads) *
                           static_cast<std::size_t>(shape.head_dim) * 2;
  a.k_pool = KV8_TRY(arena.take(pool));
  a.v_pool = KV8_TRY(arena.take(pool));
  a.q_out = KV8_TRY(arena.take(columns * static_cast<std::size_t>(shape.tokens) * 2));
  return a;
}

/// The mean of the middle half. Single times of a few microseconds come in steps of 0.16 us, which
/// a median would jump by.
double middle_mean(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto quarter = static_cast<std::ptrdiff_t>(times.size() / 4);
  const auto first = times.begin() + quarter, last = times.end() - quarter;
  return std::accumulate(first, last, 0.0) / static_cast<double>(last - first);
}

/// FP16, FP8 and a plain copy in turn, in all orders.
Result<WriteTimes> time_in_turn(cuda_testing::GpuTimer& timer,
                                const std::array<std::function<Status()>, 3>& launches,
                                cuda_testing::ColdCache cache, int repeats) {
  std::array<std::vector<double>, 3> times;
  for (int round = 0; round < repeats; ++round) {
    for (int k = 0; k < 3; ++k) {
      const auto i = static_cast<std::size_t>(((round % 2 == 0 ? k : 2 - k) + round / 2) % 3);
      times[i].push_back(KV8_TRY(timer.time_cold(launches[i], cache)));
    }
  }
  return WriteTimes{middle_mean(std::move(times[0])), middle_mean(std::move(times[1])),
                    middle_mean(std::move(times[2]))};
}

}  // namespace

Result<WriteBenchResult> bench_write(const WriteBenchOptions& options) {
  using cuda_testing::ColdCache;
  WriteBenchResult result;
  result.device = KV8_TRY(cuda_testing::device_name());
  result.copy_gb_s = KV8_TRY(cuda_testing::measure_memory()).copy_gb_s;
  cuda_testing::GpuTimer timer = KV8_TRY(cuda_testing::GpuTimer::create());
  for (const WriteShapeSpec& shape :
       options.shapes.empty() ? write_bench_shapes() : options.shapes) {
    Arena arena;
    KvWriteArgs half = KV8_TRY(make_args(shape, arena));
    half.fp8_cache = half.fp8_q = false;
    KvWriteArgs fp8 = half;
    fp8.fp8_cache = fp8.fp8_q = true;
    for (KvScale& scale : fp8.scales) scale = make_kv_scale(0.0123f);
    const std::function<Status()> launch16 = [&] { return launch_kv_write(half, nullptr); };
    const std::function<Status()> launch8 = [&] { return launch_kv_write(fp8, nullptr); };
    KV8_TRY(timer.run_for(options.settle_ms, {launch16, launch8}));
    WriteBenchRow row;
    row.shape = shape;
    const auto copied = static_cast<std::size_t>(row.fp8_bytes() / 2);
    void* const from = KV8_TRY(arena.take(copied));
    void* const to = KV8_TRY(arena.take(copied));
    const std::function<Status()> copy = [&] {
      cuda_testing::launch_short_copy(from, to, copied);
      return Status();
    };
    const std::array<std::function<Status()>, 3> launches = {launch16, launch8, copy};
    row.dirty = KV8_TRY(time_in_turn(timer, launches, ColdCache::kDirty, options.repeats));
    row.clean = KV8_TRY(time_in_turn(timer, launches, ColdCache::kClean, options.repeats));
    result.rows.push_back(row);
  }
  return result;
}

#else
Result<WriteBenchResult> bench_write(const WriteBenchOptions&) {
  return unsupported("this kv8 was built without CUDA; configure with -DKV8_CUDA=ON");
}
#endif

std::string write_bench_table(const WriteBenchResult& result) {
  std::string text = fmt::format(
      "{}: RoPE + quantize + cache write, cold L2, event pairs, means of the middle half; copy "
      "{:.0f} "
      "GB/s. Left: "
      "256 MiB\nwritten before each launch, which writes their last lines back from L2. Right: 256 "
      "MiB read, no line to\nwrite back. copy us: a plain copy of as many bytes as FP8 reads and "
      "writes.\n"
      "heads       tokens |  fp16 us    fp8 us  fp8/fp16  fp8 GB/s of copy   copy us |  fp16 us    "
      "fp8 us  fp8/fp16   copy us\n",
      result.device, result.copy_gb_s);
  for (const WriteBenchRow& r : result.rows) {
    const double fp8_gb_s = gb_per_s(r.fp8_bytes(), r.dirty.fp8_us);
    text += fmt::format(
        "({},{},{:>3}) {:>7} |{:>9.2f} {:>9.2f} {:>9.3f} {:>9.0f} {:>6.1f}% {:>9.2f} |{:>9.2f} "
        "{:>9.2f} {:>9.3f} {:>9.2f}\n",
        r.shape.num_heads, r.shape.num_kv_heads, r.shape.head_dim, r.shape.tokens, r.dirty.fp16_us,
        r.dirty.fp8_us, r.dirty.fp8_us / r.dirty.fp16_us, fp8_gb_s,
        100 * fp8_gb_s / result.copy_gb_s, r.dirty.copy_us, r.clean.fp16_us, r.clean.fp8_us,
        r.clean.fp8_us / r.clean.fp16_us, r.clean.copy_us);
  }
  return text;
}

std::string write_bench_json(const WriteBenchResult& result, const std::string& command) {
  std::string text = fmt::format(
      "{{\n  \"device\": \"{}\",\n  \"command\": \"{}\",\n  \"copy_gb_s\": {:.1f},\n  "
      "\"rows\": [",
      result.device, command, result.copy_gb_s);
  const char* comma = "\n";
  for (const WriteBenchRow& r : result.rows) {
    text += fmt::format(
        "{}    {{\"num_heads\": {}, \"num_kv_heads\": {}, \"head_dim\": {}, \"tokens\": {}, "
        "\"fp16_us\": {:.2f}, \"fp8_us\": {:.2f}, \"fp8_gb_s\": {:.1f}, \"plain_copy_us\": {:.2f}, "
        "\"fp16_clean_us\": {:.2f}, \"fp8_clean_us\": {:.2f}, \"plain_copy_clean_us\": {:.2f}}}",
        comma, r.shape.num_heads, r.shape.num_kv_heads, r.shape.head_dim, r.shape.tokens,
        r.dirty.fp16_us, r.dirty.fp8_us, gb_per_s(r.fp8_bytes(), r.dirty.fp8_us), r.dirty.copy_us,
        r.clean.fp16_us, r.clean.fp8_us, r.clean.copy_us);
    comma = ",\n";
  }
  return text + "\n  ]\n}\n";
}

std::string write_bench_svg(const WriteBenchResult& result) {
  std::vector<RatioBar> bars;
  for (const WriteBenchRow& r : result.rows) {
    bars.push_back({fmt::format("({},{},{}) {} tokens", r.shape.num_heads, r.shape.num_kv_heads,
                                r.shape.head_dim, r.shape.tokens),
                    r.dirty.fp16_us / r.dirty.fp8_us});
  }
  return ratio_chart_svg(
      fmt::format("RoPE + quantize + cache write on {}: time with FP16 outputs / with FP8",
                  result.device),
      bars);
}

}  // namespace kv8::bench
