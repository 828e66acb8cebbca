#include "bench/model_candidate.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace kv8::bench {
namespace {

/// Tokens whose keys and values fill the cache, at most.
constexpr std::int64_t kFillTokens = 1024;

/// Whole pages of one prompt.
std::int64_t fill_tokens(const CandidateRoom& room) {
  return std::min(pages_for_tokens(room.context) * kPageTokens, kFillTokens);
}

BackendOptions backend_options(const CandidateRoom& room) {
  return {.num_threads = room.num_threads,
          .num_pages = static_cast<std::int32_t>(room.pages),
          .max_rows = std::max(room.rows, fill_tokens(room)),
          .max_logits_rows = room.sequences,
          .max_sequences = room.sequences,
          .max_sequence_tokens = pages_for_tokens(room.context) * kPageTokens};
}

Result<std::unique_ptr<exec::Engine>> make_engine(const io::Checkpoint& checkpoint, bool kv_fp8,
                                                  const exec::Engine& tuned,
                                                  const CandidateRoom& room) {
  exec::BuilderConfig config;
  config.backend = room.backend;
  config.max_input_len = static_cast<std::int32_t>(room.context);
  config.max_kv_cache_capacity = config.max_input_len;
  config.max_batch_size = static_cast<std::int32_t>(room.sequences);
  auto engine = KV8_TRY(exec::Engine::from_checkpoint(checkpoint, kv_fp8, config));
  engine->take_tuning(tuned);
  return engine;
}

}  // namespace

Result<Candidate> Candidate::open(const io::Checkpoint& checkpoint, bool kv_fp8,
                                  const exec::Engine& tuned, const CandidateRoom& room) {
  if (room.pages > std::numeric_limits<std::int32_t>::max()) {
    return capacity_error("{} KV pages are more than a pool can count", room.pages);
  }
  Candidate candidate;
  candidate.fill_tokens_ = fill_tokens(room);
  candidate.engine_ = KV8_TRY(make_engine(checkpoint, kv_fp8, tuned, room));
  candidate.backend_ = KV8_TRY(candidate.engine_->open_backend(backend_options(room)));
  return candidate;
}

Result<Candidate> Candidate::open_full(const io::Checkpoint& checkpoint, bool kv_fp8,
                                       const exec::Engine& tuned, CandidateRoom room,
                                       std::int64_t memory, std::int64_t shortest_context) {
  Candidate candidate;
  candidate.fill_tokens_ = fill_tokens(room);
  candidate.engine_ = KV8_TRY(make_engine(checkpoint, kv_fp8, tuned, room));
  const std::int64_t page_bytes = candidate.plan().kv_bytes_per_token() * kPageTokens;
  // More sequences take more of the working memory that the pages then lack: twice is enough.
  for (int pass = 0; pass < 2; ++pass) {
    std::int64_t bytes = KV8_TRY(candidate.engine_->page_memory(backend_options(room)));
    if (memory > 0) bytes = std::min(bytes, memory);
    room.pages = std::min<std::int64_t>(bytes / page_bytes, std::int64_t{1} << 24);
    room.sequences = std::max<std::int64_t>(1, room.pages / pages_for_tokens(shortest_context));
    room.rows = std::max(room.rows, room.sequences);
  }
  if (room.pages < pages_for_tokens(room.context)) {
    return capacity_error("{} KV pages fit beside the weights, a sequence of {} tokens needs {}",
                          room.pages, room.context, pages_for_tokens(room.context));
  }
  candidate.backend_ = KV8_TRY(candidate.engine_->open_backend(backend_options(room)));
  return candidate;
}

Status Candidate::fill_cache() {
  const std::int32_t pages = backend_->num_pages();
  const ModelPoint prompt{Phase::kPrefill, 1, fill_tokens_, fill_tokens_};
  const Workload work = make_workload(prompt, 1, pages, plan().vocab_size);
  KV8_TRY(run(work.pieces.front(), nullptr));
  const std::vector<std::int32_t>& written = work.page_tables.front();
  std::vector<bool> is_written(static_cast<std::size_t>(pages));
  for (const std::int32_t page : written) is_written[static_cast<std::size_t>(page)] = true;
  std::size_t next = 0;
  for (std::int32_t page = 0; page < pages; ++page) {
    if (is_written[static_cast<std::size_t>(page)]) continue;
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    KV8_TRY(backend_->copy_page(written[next++ % written.size()], page));
  }
  return {};
}

Status Candidate::run(const TimedCalls& calls, TapSink* taps) {
  for (const Call& call : calls) KV8_TRY(backend_->run(call.batch(), taps));
  const std::size_t rows = calls.back().logits_rows.size();
  SampleRow greedy;
  greedy.temperature = 0.0f;
  const std::vector<SampleRow> settings(rows, greedy);
  std::vector<SampledToken> tokens(rows);
  KV8_TRY(backend_->sample(settings, tokens));
  for (const SampledToken& token : tokens) KV8_TRY(check_sampled(token));
  return {};
}

Result<double> Candidate::time(const TimedCalls& calls) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  KV8_TRY(run(calls, nullptr));
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double Candidate::attention_speed() const {
  const LayerCache& cache = plan().caches.front();
  const bool fp8 = cache.dtype == DType::kF8E4M3 && !cache.q_scale.empty();
  return fp8 && !on_cpu() ? 2.0 : 1.0;
}

}  // namespace kv8::bench
