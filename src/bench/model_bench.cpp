#include "bench/model_bench.h"

#include <algorithm>
#include <optional>
#include <thread>

#include "bench/geometry.h"
#include "bench/model_candidate.h"
#include "bench/model_ceilings.h"
#include "exec/backends.h"
#include "io/checkpoint.h"

namespace kv8::bench {
namespace {

/// Rows of the products that the GEMM rate is measured on, where no prompt says how many.
constexpr std::int64_t kDefaultGemmRows = 512;
/// Rows up to which kernels are chosen by timing, where the batch is what will fit.
constexpr std::int64_t kTunedBatch = 512;

Result<io::Checkpoint> open_model(const ModelBenchOptions& options) {
  if (options.geometry.empty()) {
    const io::Checkpoint whole = KV8_TRY(io::Checkpoint::open(options.checkpoint_dir));
    return options.layers > 0 ? whole.first_layers(options.layers) : Result(whole);
  }
  const io::ModelConfig config = KV8_TRY(geometry_config(options.geometry, options.layers));
  return random_checkpoint(config, options.weight_dtype);
}

CandidateRoom room_for(const ModelBenchOptions& options, std::span<const ModelPoint> points) {
  CandidateRoom room{options.backend, options.num_threads};
  for (const ModelPoint& point : points) {
    room.pages = std::max(room.pages, pages_of(point));
    room.rows = std::max(room.rows, rows_of(point));
    room.sequences = std::max(room.sequences, sequences_of(point));
    room.context = std::max({room.context, point.context, point.chunk_tokens});
  }
  return room;
}

/// One point with one cache while it is measured.
struct Measurement {
  ModelPoint point;
  Candidate* candidate;
  Workload work;
  std::vector<double> ms = {};
  std::vector<Ceilings> ceilings = {};  ///< of each sample's round
};

class ModelBench {
 public:
  ModelBench(const ModelBenchOptions& options, const Reporter& reporter)
      : options_(options), reporter_(reporter) {}

  Result<ModelBenchResult> run() {
    KV8_TRY(exec::backend_architecture(options_.backend));
    if (options_.split_kernels) KV8_TRY(can_split_kernels(options_.backend));
    const io::Checkpoint checkpoint = KV8_TRY(open_model(options_));
    KV8_TRY(describe(checkpoint));
    std::vector<bool> caches = {false};
    if (checkpoint.quantization().kv_cache_fp8) caches.push_back(true);
    if (!options_.points.empty()) KV8_TRY(measure_points(checkpoint, caches));
    for (const bool kv_fp8 : caches) {
      if (!options_.full_memory_contexts.empty()) KV8_TRY(measure_full(checkpoint, kv_fp8));
    }
    result_.ceilings = median_ceilings();
    for (ModelBenchRow& row : result_.rows) row.roofline = roofline_of(row.work, result_.ceilings);
    return std::move(result_);
  }

 private:
  /// Fills in what holds for all rows. Ceilings and kernels are timed before the model takes the
  /// memory.
  Status describe(const io::Checkpoint& checkpoint) {
    threads_ = options_.num_threads > 0 ? options_.num_threads
                                        : static_cast<int>(std::thread::hardware_concurrency());
    const std::string folder = options_.checkpoint_dir.filename().string();
    result_.model = options_.geometry.empty() ? folder : options_.geometry;
    result_.backend = options_.backend;
    exec::BuilderConfig config;
    config.backend = options_.backend;
    tuned_ = KV8_TRY(exec::Engine::from_checkpoint(checkpoint, false, config));
    const Plan& plan = tuned_->plan();
    result_.machine = KV8_TRY(machine_name(options_.backend, threads_));
    result_.weight_bytes = weight_bytes(plan);
    weight_dtype_ = plan.model_dtype;
    result_.weight_dtype = weight_dtype_ == DType::kBF16 ? "bf16" : "fp16";
    std::int64_t rows = 0;
    for (const ModelPoint& point : options_.points) {
      if (point.phase == Phase::kPrefill) rows = std::max(rows, rows_of(point));
    }
    gemms_ = gemm_shapes(plan, rows > 0 ? rows : kDefaultGemmRows, 1);
    KV8_TRY(measure_ceilings_again());
    std::int64_t most = options_.full_memory_contexts.empty() ? 1 : kTunedBatch;
    for (const ModelPoint& point : options_.points) most = std::max(most, rows_of(point));
    return tuned_->tune(most, reporter_);
  }

  /// On a shared machine they change within seconds (one such machine read 50 GB/s in one minute
  /// and 80 in the next), so a sample is compared with those of its own round.
  Status measure_ceilings_again() {
    ceilings_.push_back(KV8_TRY(
        measure_ceilings(options_.backend, gemms_, weight_dtype_, result_.weight_bytes, threads_)));
    return {};
  }

  Ceilings median_ceilings() const {
    std::vector<double> read, flop;
    for (const Ceilings& c : ceilings_) {
      read.push_back(c.read_bytes_per_s);
      flop.push_back(c.flop_per_s);
    }
    return {spread_of(std::move(read)).median, spread_of(std::move(flop)).median};
  }

  Status measure_points(const io::Checkpoint& checkpoint, const std::vector<bool>& caches) {
    const CandidateRoom room = room_for(options_, options_.points);
    std::vector<Candidate> candidates;
    for (const bool kv_fp8 : caches) {
      Result<Candidate> candidate = Candidate::open(checkpoint, kv_fp8, *tuned_, room);
      const bool too_large =
          !candidate.ok() && candidate.error().code == ErrorCode::kCapacity && !candidates.empty();
      if (too_large) {
        reporter_.warn("memory does not hold both caches: measuring one after the other");
        KV8_TRY(measure(candidates, options_.points, false));
        candidates.clear();
        candidate = Candidate::open(checkpoint, kv_fp8, *tuned_, room);
      }
      candidates.push_back(KV8_TRY(std::move(candidate)));
    }
    return measure(candidates, options_.points, false);
  }

  Status measure_full(const io::Checkpoint& checkpoint, bool kv_fp8) {
    const auto [shortest, longest] = std::ranges::minmax(options_.full_memory_contexts);
    CandidateRoom room{options_.backend, options_.num_threads};
    room.context = longest;
    std::vector<Candidate> candidates;
    candidates.push_back(KV8_TRY(Candidate::open_full(checkpoint, kv_fp8, *tuned_, room,
                                                      options_.kv_cache_memory, shortest)));
    std::vector<ModelPoint> points;
    for (const std::int64_t context : options_.full_memory_contexts) {
      const std::int64_t pages = candidates.front().backend().num_pages();
      points.push_back({Phase::kDecode, pages / pages_for_tokens(context), context});
    }
    return measure(candidates, points, true);
  }

  /// Fills the candidates' caches, times every point with each of them in turn, and adds rows.
  Status measure(std::vector<Candidate>& candidates, const std::vector<ModelPoint>& points,
                 bool full_memory) {
    std::vector<Measurement> measurements;
    for (Candidate& candidate : candidates) {
      reporter_.info(fmt::format("{} KV: {}; filling {} pages", candidate.kv_dtype(),
                                 candidate.backend().summary(), candidate.backend().num_pages()));
      KV8_TRY(candidate.fill_cache());
    }
    for (const ModelPoint& point : points) {
      for (Candidate& candidate : candidates) {
        measurements.push_back(
            {point, &candidate,
             make_workload(point, options_.decode_steps, candidate.backend().num_pages(),
                           candidate.plan().vocab_size)});
      }
    }
    ProgressSink* progress = reporter_.progress;
    const auto count = static_cast<std::int64_t>(measurements.size());
    if (progress) progress->begin("measuring", count * (options_.repeats + 1), "pieces");
    const Status status = measure_rounds(measurements, progress);
    if (progress) progress->end();
    if (!status.ok()) return status;
    for (Measurement& measurement : measurements) {
      ModelBenchRow& row = result_.rows.emplace_back();
      row.full_memory = full_memory;
      row.alternating = candidates.size() > 1;
      KV8_TRY(fill_row(measurement, row));
    }
    return {};
  }

  Status measure_rounds(std::vector<Measurement>& measurements, ProgressSink* progress) {
    std::int64_t done = 0;
    for (int round = 0; round <= options_.repeats; ++round) {  // round 0 warms up
      if (options_.backend == "cpu") KV8_TRY(measure_ceilings_again());
      for (std::size_t i = 0; i < measurements.size(); ++i) {
        // Every other round the other way round: who comes second may find a warmer processor.
        Measurement& m = measurements[round % 2 == 0 ? i : measurements.size() - 1 - i];
        for (const TimedCalls& piece : m.work.pieces) {
          if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
          const double ms = KV8_TRY(m.candidate->time(piece));
          if (round == 0) continue;
          m.ms.push_back(ms);
          m.ceilings.push_back(ceilings_.back());
        }
        if (progress) progress->advance(++done);
      }
    }
    return {};
  }

  Status fill_row(Measurement& measurement, ModelBenchRow& row) {
    Candidate& candidate = *measurement.candidate;
    row.point = measurement.point;
    row.kv_dtype = candidate.kv_dtype();
    row.kv_bytes_per_token = candidate.plan().kv_bytes_per_token();
    row.ms = spread_of(measurement.ms);
    std::size_t tokens = 0;
    for (const TimedCalls& piece : measurement.work.pieces) {
      for (const Call& call : piece) {
        tokens += call.tokens.size();
        row.work.add(work_of(candidate.plan(), call.sequences,
                             static_cast<std::int64_t>(call.logits_rows.size()),
                             candidate.attention_speed()));
      }
    }
    const auto pieces = static_cast<double>(measurement.work.pieces.size());
    row.work.divide_by(pieces);
    row.tokens_per_s = static_cast<double>(tokens) / pieces / row.ms.median * 1e3;
    std::vector<double> fractions;
    for (std::size_t i = 0; i < measurement.ms.size(); ++i) {
      const double best = roofline_of(row.work, measurement.ceilings[i]).ms;
      fractions.push_back(best / measurement.ms[i]);
    }
    row.roofline_fraction = spread_of(std::move(fractions)).median;
    if (!options_.split_kernels) return {};
    row.split = KV8_TRY(split_by_kernel(candidate, measurement.work.pieces));
    return {};
  }

  const ModelBenchOptions& options_;
  const Reporter& reporter_;
  int threads_ = 0;
  DType weight_dtype_ = DType::kF16;
  std::vector<GemmShape> gemms_;
  std::vector<Ceilings> ceilings_;  // one a round; the GPU's do not change
  std::unique_ptr<exec::Engine> tuned_;
  ModelBenchResult result_;
};

}  // namespace

Result<ModelBenchResult> bench_model(const ModelBenchOptions& options, const Reporter& reporter) {
  return ModelBench(options, reporter).run();
}

const ModelBenchRow* fp16_beside(const ModelBenchResult& result, const ModelBenchRow& row) {
  if (row.kv_dtype == "fp16") return nullptr;
  const auto beside = [&row](const ModelBenchRow& other) {
    const ModelPoint &a = row.point, &b = other.point;
    return other.kv_dtype == "fp16" && a.phase == b.phase && a.context == b.context &&
           a.chunk_tokens == b.chunk_tokens && row.full_memory == other.full_memory &&
           (row.full_memory || a.batch == b.batch);
  };
  const auto found = std::ranges::find_if(result.rows, beside);
  return found == result.rows.end() ? nullptr : &*found;
}

const ModelBenchRow* find_row(const ModelBenchResult& result, Phase phase,
                              std::string_view kv_dtype) {
  for (const ModelBenchRow& row : result.rows) {
    if (row.point.phase == phase && row.kv_dtype == kv_dtype) return &row;
  }
  return nullptr;
}

}  // namespace kv8::bench
