#include "bench/kv_write.h"

#include "bench/plot.h"
#include "bench/shape_text.h"
#include "bench/spread.h"

#if KV8_HAS_CUDA
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
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
/// Launches go on until the standard error of the difference between FP8 and FP16 is below either
/// of these, up to so many times the repeats that were asked for.
constexpr double kWantedErrorUs = 0.008;
constexpr double kWantedError = 0.002;  // of FP16's time
constexpr int kMaxParts = 12;
/// How long a launch of one or a few tokens takes hangs on where its data lie, by up to 0.2 us:
/// between which memory and which multiprocessors. Such shapes take turns through as many copies of
/// all of it.
constexpr int kCopiesOfDecode = 32;

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
Result<KvWriteArgs> make_args(const WriteShapeSpec& shape, unsigned seed, Arena& arena) {
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
  std::iota(table.begin(), table.end(), 0);
  std::minstd_rand random(seed);
  std::shuffle(table.begin(), table.end(), random);
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

/// Microseconds of every launch of FP16, of FP8 and of a plain copy.
using LaunchTimes = std::array<std::vector<double>, 3>;

/// Standard error of the difference between FP8's and FP16's middle means: that of the mean of ten
/// such differences, each of a tenth of the rounds.
double difference_error(const LaunchTimes& times) {
  constexpr int kParts = 10;
  const auto middle_mean_of_part = [](const std::vector<double>& all, int part) {
    const auto at = [&](int i) {
      return all.begin() + static_cast<std::ptrdiff_t>(all.size()) * i / kParts;
    };
    return middle_mean(std::vector<double>(at(part), at(part + 1)));
  };
  if (times[0].size() < kParts) return std::numeric_limits<double>::infinity();
  double sum = 0, squares = 0;
  for (int part = 0; part < kParts; ++part) {
    const double difference =
        middle_mean_of_part(times[1], part) - middle_mean_of_part(times[0], part);
    sum += difference;
    squares += difference * difference;
  }
  const double variance = (squares - sum * sum / kParts) / (kParts - 1);
  return std::sqrt(std::max(variance, 0.0) / kParts);
}

/// FP16, FP8 and a plain copy, given which of several copies of their data to use.
using Launches = std::array<std::function<Status(int)>, 3>;

/// All three in turn, in all orders.
Status time_round(cuda_testing::GpuTimer& timer, const Launches& launches,
                  cuda_testing::ColdCache cache, int round, LaunchTimes& times) {
  for (int k = 0; k < 3; ++k) {
    const auto i = static_cast<std::size_t>(((round % 2 == 0 ? k : 2 - k) + round / 2) % 3);
    times[i].push_back(
        KV8_TRY(timer.time_cold([&] { return launches[i](round / 6 % kCopiesOfDecode); }, cache)));
  }
  return {};
}

Result<WriteTimes> time_in_turn(cuda_testing::GpuTimer& timer, const Launches& launches,
                                cuda_testing::ColdCache cache, int repeats) {
  LaunchTimes times;
  WriteTimes result;
  for (int part = 0; part < kMaxParts; ++part) {
    for (int i = 0; i < repeats; ++i) {
      KV8_TRY(time_round(timer, launches, cache, part * repeats + i, times));
    }
    result = {middle_mean(times[0]), middle_mean(times[1]), middle_mean(times[2]),
              difference_error(times)};
    if (result.difference_error_us < std::max(kWantedErrorUs, kWantedError * result.fp16_us)) break;
  }
  return result;
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
    std::vector<KvWriteArgs> half, fp8;
    for (int i = 0; i < (shape.tokens <= kDecodeTokens ? kCopiesOfDecode : 1); ++i) {
      half.push_back(KV8_TRY(make_args(shape, static_cast<unsigned>(i) + 1, arena)));
      half.back().fp8_cache = half.back().fp8_q = false;
      fp8.push_back(half.back());
      fp8.back().fp8_cache = fp8.back().fp8_q = true;
      for (KvScale& scale : fp8.back().scales) scale = make_kv_scale(0.0123f);
    }
    WriteBenchRow row;
    row.shape = shape;
    const auto copied = static_cast<std::size_t>(row.fp8_bytes() / 2);
    void* const from = KV8_TRY(arena.take(copied));
    void* const to = KV8_TRY(arena.take(copied));
    const auto of = [](const std::vector<KvWriteArgs>& args, int copy) {
      return launch_kv_write(args[static_cast<std::size_t>(copy) % args.size()], nullptr);
    };
    const Launches launches = {[&](int copy) { return of(half, copy); },
                               [&](int copy) { return of(fp8, copy); },
                               [&](int) {
                                 cuda_testing::launch_short_copy(from, to, copied);
                                 return Status();
                               }};
    KV8_TRY(timer.run_for(options.settle_ms,
                          {[&] { return launches[0](0); }, [&] { return launches[1](0); }}));
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
      "writes. +-: standard error of\nfp8 us - fp16 us.\n"
      "heads       tokens |  fp16 us    fp8 us     +-  fp8/fp16  fp8 GB/s of copy   copy us |  "
      "fp16 us    fp8 us     +-  fp8/fp16   copy us\n",
      result.device, result.copy_gb_s);
  for (const WriteBenchRow& r : result.rows) {
    const double fp8_gb_s = gb_per_s(r.fp8_bytes(), r.dirty.fp8_us);
    text += fmt::format(
        "({},{},{:>3}) {:>7} |{:>9.3f} {:>9.3f} {:>6.3f} {:>9.4f} {:>9.0f} {:>6.1f}% {:>9.3f} "
        "|{:>9.3f} {:>9.3f} {:>6.3f} {:>9.4f} {:>9.3f}\n",
        r.shape.num_heads, r.shape.num_kv_heads, r.shape.head_dim, r.shape.tokens, r.dirty.fp16_us,
        r.dirty.fp8_us, r.dirty.difference_error_us, r.dirty.fp8_us / r.dirty.fp16_us, fp8_gb_s,
        100 * fp8_gb_s / result.copy_gb_s, r.dirty.copy_us, r.clean.fp16_us, r.clean.fp8_us,
        r.clean.difference_error_us, r.clean.fp8_us / r.clean.fp16_us, r.clean.copy_us);
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
        "\"fp16_us\": {:.3f}, \"fp8_us\": {:.3f}, \"difference_error_us\": {:.3f}, "
        "\"fp8_gb_s\": {:.1f}, \"plain_copy_us\": {:.3f}, \"fp16_clean_us\": {:.3f}, "
        "\"fp8_clean_us\": {:.3f}, \"difference_error_clean_us\": {:.3f}, "
        "\"plain_copy_clean_us\": {:.3f}}}",
        comma, r.shape.num_heads, r.shape.num_kv_heads, r.shape.head_dim, r.shape.tokens,
        r.dirty.fp16_us, r.dirty.fp8_us, r.dirty.difference_error_us,
        gb_per_s(r.fp8_bytes(), r.dirty.fp8_us), r.dirty.copy_us, r.clean.fp16_us, r.clean.fp8_us,
        r.clean.difference_error_us, r.clean.copy_us);
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
