#include "bench/fmha.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <tuple>

#include "base/file.h"
#include "bench/shape_text.h"
#include "bench/spread.h"

#if KV8_HAS_CUDA
#include "cuda/attention/attention.h"
#include "cuda/testing/gpu_timer.h"
#include "cuda/testing/prefill_problem.h"
#endif
#if KV8_HAS_CUDNN
#include "cuda/testing/cudnn_attention.h"
#endif

namespace kv8::bench {
std::vector<FmhaShape> default_fmha_shapes() {
  struct Model {
    const char* name;
    int heads, kv_heads, head_dim;
  };
  constexpr Model kModels[] = {{"Qwen3-0.6B", 16, 8, 128},  {"Qwen3-8B", 32, 8, 128},
                               {"Qwen2.5-7B", 28, 4, 128},  {"Llama-3.2-3B", 24, 8, 128},
                               {"Llama-3.2-1B", 32, 8, 64}, {"Qwen2.5-0.5B", 14, 2, 64}};
  std::vector<FmhaShape> shapes;
  for (const Model& m : kModels) {
    for (int batch : {1, 4, 8}) {
      for (int length : {512, 1024, 4096}) {
        shapes.push_back({m.name, m.heads, m.kv_heads, m.head_dim, batch, length});
      }
    }
  }
  for (int length : {16384, 65536}) {
    shapes.push_back({"Qwen3-8B-long", 32, 8, 128, 1, length});
    shapes.push_back({"Llama-3.2-1B-long", 32, 8, 64, 1, length});
  }
  return shapes;
}

Result<FmhaShape> parse_fmha_shape(const std::string& text) {
  const std::vector<int> n = KV8_TRY(parse_shape(text, "heads,kv_heads,head_dim,batch,seq_len"));
  return FmhaShape{"custom", n[0], n[1], n[2], n[3], n[4]};
}

#if KV8_HAS_CUDA
namespace {

using cuda_testing::GpuTimer;
using cuda_testing::PrefillProblem;
using cuda_testing::PrefillProblemSpec;

// Random normals up to 5.6 sigma stored at 14, so that |q·k| stays within FP16: what an engine does
// with a calibrated amax through qk_exponent_shift.
constexpr float kQkAmax = 14.0f;

/// model, batch, seq_len -> column -> microseconds, from a CSV with a header line.
using Peers = std::map<std::tuple<std::string, int, int>, std::map<std::string, double>>;

Result<Peers> read_peers(const std::filesystem::path& path) {
  Peers peers;
  if (path.empty()) return peers;
  const std::string text = KV8_TRY(read_text_file(path, 1 << 20));
  const std::vector<std::string> lines = split(text, '\n');
  const std::vector<std::string> header = split(lines[0], ',');
  const auto column = [&](const char* name) {
    return std::size_t(std::find(header.begin(), header.end(), name) - header.begin());
  };
  const std::size_t model = column("model"), batch = column("bs"), length = column("seq");
  if (std::max({model, batch, length}) >= header.size()) {
    return bad_input("{}: the first line must name the columns model, bs and seq", path.string());
  }
  for (std::size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const std::vector<std::string> fields = split(lines[i], ',');
    const auto b = fields.size() == header.size() ? parse_number<int>(fields[batch]) : std::nullopt;
    const auto n = b.has_value() ? parse_number<int>(fields[length]) : std::nullopt;
    if (!n.has_value()) {
      return bad_input("{}: line {} does not have the {} columns of the first line", path.string(),
                       i + 1, header.size());
    }
    for (const char* name : kPeerColumns) {
      const std::size_t at = column(name);
      const auto us = at < fields.size() ? parse_number<double>(fields[at]) : std::nullopt;
      if (us.has_value()) peers[{fields[model], *b, *n}][name] = *us;
    }
  }
  return peers;
}

FmhaTimes times_of(std::vector<double> samples) {
  const Spread spread = spread_of(std::move(samples));
  return {spread.median, spread.p10, spread.p90};
}

PrefillProblemSpec spec_for(const FmhaShape& shape, KvType type, bool f16_queries = false) {
  PrefillProblemSpec spec;
  spec.q_lens.assign(shape.batch, shape.seq_len);
  spec.kv_lens = spec.q_lens;
  spec.num_heads = shape.num_heads;
  spec.num_kv_heads = shape.num_kv_heads;
  spec.head_dim = shape.head_dim;
  spec.kv_type = type;
  spec.f16_queries = f16_queries;
  spec.qk_code_amax = kQkAmax;
  return spec;
}

struct Side {
  PrefillProblem problem;
  PreparedPrefill prepared;

  static Result<Side> create(const PrefillProblemSpec& spec, ScoreType score_type) {
    PrefillProblem problem = KV8_TRY(PrefillProblem::create(spec));
    const auto prepared = KV8_TRY(prepare_prefill(problem.args(score_type)));
    return Side{std::move(problem), prepared};
  }
};

/// One kernel of those that take turns.
struct Contestant {
  std::string column;
  std::function<Status()> launch;
  std::vector<double> times;
};

#if KV8_HAS_CUDNN
/// cuDNN on the same shape, where it has a plan for it.
std::vector<Contestant> cudnn_contestants(const FmhaShape& shape, std::string& note) {
  std::vector<Contestant> contestants;
  for (const auto& [column, type] :
       {std::pair{"cudnn_fp16_us", KvType::kF16}, std::pair{"cudnn_fp8_us", KvType::kE4m3}}) {
    auto attention = cuda_testing::CudnnAttention::create(spec_for(shape, type));
    if (!attention.ok()) {
      note = attention.error().message;
      continue;
    }
    const auto shared =
        std::make_shared<cuda_testing::CudnnAttention>(std::move(attention).value());
    contestants.push_back({column, [shared] { return shared->launch(); }, {}});
  }
  return contestants;
}
#endif

/// Times the contestants in turn; very long launches warm up and repeat by time, one second of each
/// type at most.
Status take_turns(std::vector<Contestant>& contestants, const FmhaShape& shape,
                  const FmhaBenchOptions& options, GpuTimer& timer) {
  if (shape.seq_len >= 4096) {
    std::vector<std::function<Status()>> launches;
    for (const Contestant& c : contestants) launches.push_back(c.launch);
    KV8_TRY(timer.run_for(options.settle_ms, launches));
  }
  const double first_us = KV8_TRY(timer.time_cold(contestants[0].launch));
  const int fitting = std::max(11, static_cast<int>(1e6 / std::max(first_us, 1.0)));
  const int repeats = std::min(options.repeats, fitting);
  const int warmup = std::min(options.warmup, fitting);
  for (int i = 0; i < warmup + repeats; ++i) {
    for (Contestant& c : contestants) {
      const double us = KV8_TRY(timer.time_cold(c.launch));
      if (i >= warmup) c.times.push_back(us);
    }
  }
  return {};
}

Result<FmhaRow> measure(const FmhaShape& shape, const FmhaBenchOptions& options, GpuTimer& timer,
                        [[maybe_unused]] std::string& note) {
  FmhaRow row;
  row.shape = shape;
  const float logit_scale = 0.16f * 1.4427f / std::sqrt(static_cast<float>(shape.head_dim));
  const ScoreType score = KV8_TRY(current_family()) == KernelFamily::kSm90
                              ? score_type_for(kQkAmax, kQkAmax, shape.head_dim, logit_scale)
                              : ScoreType::kF32;
  row.score_type = score == ScoreType::kF16 ? "f16" : "f32";
  Side fp16 = KV8_TRY(Side::create(spec_for(shape, KvType::kF16), ScoreType::kF32));
  Side fp8 = KV8_TRY(Side::create(spec_for(shape, KvType::kE4m3), score));
  std::optional<Side> f16_queries;
  if (options.f16_queries) {
    f16_queries = KV8_TRY(Side::create(spec_for(shape, KvType::kE4m3, true), ScoreType::kF32));
  }
  row.fp16_kernel = fp16.prepared.description();
  row.fp8_kernel = fp8.prepared.description();
  std::vector<Contestant> contestants = {
      {"fp16", [&] { return fp16.prepared.launch(nullptr); }, {}},
      {"fp8", [&] { return fp8.prepared.launch(nullptr); }, {}}};
  if (f16_queries) {
    contestants.push_back(
        {"f16_queries", [&] { return f16_queries->prepared.launch(nullptr); }, {}});
  }
  const std::size_t num_own = contestants.size();
#if KV8_HAS_CUDNN
  if (options.cudnn) {
    for (Contestant& c : cudnn_contestants(shape, note)) contestants.push_back(std::move(c));
  }
#endif
  KV8_TRY(take_turns(contestants, shape, options, timer));
  row.sm_clock_mhz = KV8_TRY(timer.sm_clock_mhz());
  row.fp16 = times_of(std::move(contestants[0].times));
  row.fp8 = times_of(std::move(contestants[1].times));
  if (f16_queries) row.f16_queries_us = times_of(std::move(contestants[2].times)).median_us;
  for (std::size_t i = num_own; i < contestants.size(); ++i) {
    row.peers[contestants[i].column] = times_of(std::move(contestants[i].times)).median_us;
  }
  row.fp8_tflops = 2.0 * shape.batch * shape.num_heads * shape.head_dim * double(shape.seq_len) *
                   shape.seq_len / row.fp8.median_us * 1e-6;
  KV8_TRY(fp8.problem.poison_output());
  KV8_TRY(fp8.prepared.launch(nullptr));
  const auto error = KV8_TRY(fp8.problem.compare(512));
  if (error.not_finite > 0) {
    return Error::format(ErrorCode::kUnsupported, "{} elements of the output are not finite",
                         error.not_finite);
  }
  row.error = error.relative;
  return row;
}

}  // namespace

Result<FmhaResult> bench_fmha(const FmhaBenchOptions& options, const Reporter& reporter) {
  FmhaResult result;
  result.gpu = KV8_TRY(cuda_testing::device_name());
  const Peers peers = KV8_TRY(read_peers(options.peers_csv));
  const std::vector<FmhaShape> shapes =
      options.shapes.empty() ? default_fmha_shapes() : options.shapes;
  GpuTimer timer = KV8_TRY(GpuTimer::create());
#if KV8_HAS_CUDNN
  if (options.cudnn) {
    const auto version = cuda_testing::load_cudnn();
    result.cudnn_note = version.ok() ? "cuDNN " + version.value() + ", in turn with kv8's kernels"
                                     : version.error().message;
  }
#endif
  if (reporter.progress != nullptr) {
    reporter.progress->begin("timing attention", static_cast<std::int64_t>(shapes.size()),
                             "shapes");
  }
  for (const FmhaShape& shape : shapes) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    auto row = measure(shape, options, timer, result.cudnn_note);
    if (!row.ok()) {
      return row.error().within(fmt::format("({},{},{}) batch {} length {}", shape.num_heads,
                                            shape.num_kv_heads, shape.head_dim, shape.batch,
                                            shape.seq_len));
    }
    const auto found = peers.find({shape.model, shape.batch, shape.seq_len});
    if (found != peers.end()) row->peers.insert(found->second.begin(), found->second.end());
    result.rows.push_back(std::move(*row));
    if (reporter.progress != nullptr) {
      reporter.progress->advance(static_cast<std::int64_t>(result.rows.size()));
    }
  }
  if (cuda_testing::has_hopper()) {
    result.wgmma_fp8_tflops = KV8_TRY(cuda_testing::wgmma_fp8_ceiling_tflops());
  }
  if (reporter.progress != nullptr) reporter.progress->end();
  return result;
}
#else
Result<FmhaResult> bench_fmha(const FmhaBenchOptions&, const Reporter&) {
  return unsupported("this kv8 was built without CUDA; configure with -DKV8_CUDA=ON");
}
#endif

}  // namespace kv8::bench
