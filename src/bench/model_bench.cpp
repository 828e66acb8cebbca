#include "bench/model_bench.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "bench/cpu_ceilings.h"
#include "exec/sequence.h"
#include "io/checkpoint.h"

namespace kv8::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// One engine in memory with a backend and pages for one sequence.
struct Candidate {
  std::string kv_dtype;
  std::unique_ptr<exec::Engine> engine;
  std::unique_ptr<Backend> backend;
  std::vector<double> prefill_rates, decode_rates;
};

Result<Candidate> open_candidate(const ModelBenchOptions& options, bool kv_fp8, int threads) {
  const std::int64_t tokens = options.prompt_tokens + options.decode_tokens;
  exec::BuilderConfig config;
  config.max_input_len = static_cast<std::int32_t>(options.prompt_tokens);
  config.max_kv_cache_capacity = static_cast<std::int32_t>(tokens);
  config.max_batch_size = 1;
  Candidate candidate;
  candidate.kv_dtype = kv_fp8 ? "fp8" : "fp16";
  candidate.engine = KV8_TRY(exec::Engine::from_checkpoint(options.checkpoint_dir, kv_fp8, config));
  candidate.backend = KV8_TRY(candidate.engine->open_backend(
      {.num_threads = threads,
       .num_pages = static_cast<std::int32_t>(pages_for_tokens(tokens)),
       .max_rows = options.prompt_tokens,
       .max_logits_rows = 1,
       .max_sequences = 1}));
  return candidate;
}

/// The same prompt for every candidate; which ids they are does not change the work.
std::vector<std::int32_t> make_prompt(const ModelBenchOptions& options, std::int32_t vocab_size) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(options.prompt_tokens));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>((i * 2654435761u) % static_cast<std::uint32_t>(vocab_size));
  }
  return ids;
}

Status measure_once(Candidate& candidate, const ModelBenchOptions& options) {
  const exec::Engine& engine = *candidate.engine;
  exec::KvPool pool(candidate.backend->num_pages());
  exec::Sequence sequence(pool);
  const auto prompt = make_prompt(options, engine.config().vocab_size);
  std::vector<float> logits;
  const auto prefill_start = Clock::now();
  KV8_TRY(exec::run_prefill(engine, *candidate.backend, sequence, prompt,
                            static_cast<std::int32_t>(prompt.size()), exec::StepItem::Logits::kLast,
                            logits));
  candidate.prefill_rates.push_back(static_cast<double>(prompt.size()) /
                                    seconds_since(prefill_start));
  const auto decode_start = Clock::now();
  for (std::int64_t i = 0; i < options.decode_tokens; ++i) {
    const std::int32_t token = prompt[static_cast<std::size_t>(i) % prompt.size()];
    exec::StepItem item{&sequence, std::span(&token, 1), exec::StepItem::Logits::kLast};
    KV8_TRY(exec::run_step(engine, *candidate.backend, std::span(&item, 1), logits));
  }
  candidate.decode_rates.push_back(static_cast<double>(options.decode_tokens) /
                                   seconds_since(decode_start));
  return {};
}

/// The plan's matrix products for a prompt: all rows, but one for the products after SelectRows.
std::vector<GemmShape> gemm_shapes(const Plan& plan, std::int64_t rows) {
  std::vector<GemmShape> shapes;
  for (const Step& step : plan.steps) {
    if (std::holds_alternative<SelectRowsStep>(step)) rows = 1;
    if (const auto* linear = std::get_if<LinearStep>(&step)) {
      const Shape& shape = plan.weights[static_cast<std::size_t>(linear->weight)].shape;
      shapes.push_back({rows, shape[1], shape[0]});
    }
  }
  return shapes;
}

double flop_of(const std::vector<GemmShape>& shapes) {
  double flop = 0;
  for (const GemmShape& s : shapes) {
    flop +=
        2.0 * static_cast<double>(s.rows) * static_cast<double>(s.in) * static_cast<double>(s.out);
  }
  return flop;
}

}  // namespace

Spread spread_of(std::vector<double> samples) {
  KV8_CHECK(!samples.empty(), "no samples");
  std::sort(samples.begin(), samples.end());
  const auto at = [&samples](double fraction) {
    return samples[static_cast<std::size_t>(fraction * static_cast<double>(samples.size() - 1) +
                                            0.5)];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

Result<ModelBenchResult> bench_model_cpu(const ModelBenchOptions& options,
                                         const Reporter& reporter) {
  const io::Checkpoint checkpoint = KV8_TRY(io::Checkpoint::open(options.checkpoint_dir));
  ModelBenchResult result;
  result.threads = options.num_threads > 0 ? options.num_threads
                                           : static_cast<int>(std::thread::hardware_concurrency());
  result.machine = machine_text(result.threads);
  result.prompt_tokens = options.prompt_tokens;
  result.decode_tokens = options.decode_tokens;

  std::vector<Candidate> candidates;
  candidates.push_back(KV8_TRY(open_candidate(options, false, result.threads)));
  if (checkpoint.quantization().kv_cache_fp8) {
    candidates.push_back(KV8_TRY(open_candidate(options, true, result.threads)));
  }
  const Plan& plan = candidates.front().engine->plan();
  result.weight_bytes = weight_bytes(plan);
  const auto shapes = gemm_shapes(plan, options.prompt_tokens);

  ProgressSink* progress = reporter.progress;
  if (progress) progress->begin("measure", options.repeats, "rounds");
  double gemm_seconds = 1e30, read_seconds = 1e30;
  for (int round = 0; round <= options.repeats; ++round) {  // round 0 warms up
    gemm_seconds = std::min(gemm_seconds, seconds_for_gemms(shapes, result.threads));
    read_seconds = std::min(read_seconds, seconds_to_read(result.weight_bytes, result.threads));
    for (Candidate& candidate : candidates) {
      KV8_TRY(measure_once(candidate, options));
      if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    }
    if (progress) progress->advance(round);
  }
  if (progress) progress->end();

  result.gemm_gflops = flop_of(shapes) / gemm_seconds * 1e-9;
  result.read_gb_per_s = static_cast<double>(result.weight_bytes) / read_seconds * 1e-9;
  for (Candidate& candidate : candidates) {
    candidate.prefill_rates.erase(candidate.prefill_rates.begin());
    candidate.decode_rates.erase(candidate.decode_rates.begin());
    ModelBenchRow row;
    row.kv_dtype = candidate.kv_dtype;
    row.prefill_tokens_per_s = spread_of(candidate.prefill_rates);
    row.decode_tokens_per_s = spread_of(candidate.decode_rates);
    row.prefill_of_gemm =
        gemm_seconds * row.prefill_tokens_per_s.median / static_cast<double>(options.prompt_tokens);
    row.decode_of_bandwidth = read_seconds * row.decode_tokens_per_s.median;
    row.kv_bytes_per_token = candidate.engine->plan().kv_bytes_per_token();
    result.rows.push_back(row);
  }
  return result;
}

}  // namespace kv8::bench
