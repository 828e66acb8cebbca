#include "runtime/generate.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <system_error>

#include "exec/backends.h"
#include "ops/kv_layout.h"
#include "runtime/answer.h"

namespace kv8::runtime {
namespace {

std::int64_t peak_memory() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

std::int32_t prefill_chunk(const exec::Engine& engine, const RunnerOptions& options) {
  return options.prefill_chunk > 0 ? options.prefill_chunk
                                   : exec::default_prefill_chunk(engine.config().builder.backend);
}

/// As many pages as the engine was built for. Where the build did not say how much memory, and
/// there is less on the device, as many as fit.
Result<std::int32_t> pool_pages(const exec::Engine& engine, const BackendOptions& options) {
  const exec::BuilderConfig& builder = engine.config().builder;
  const std::int32_t wanted = KV8_TRY(exec::kv_pool_pages(builder, engine.plan()));
  if (builder.kv_cache_memory > 0 || !exec::has_own_memory(builder.backend)) return wanted;
  const std::int64_t page_bytes = engine.plan().kv_bytes_per_token() * kPageTokens;
  const std::int64_t memory = KV8_TRY(engine.page_memory(options));
  const std::int64_t fitting = std::min<std::int64_t>(wanted, memory / page_bytes);
  if (fitting < pages_for_tokens(builder.max_input_len)) {
    return capacity_error(
        "{} bytes of memory are left for the KV cache, {} tokens; the engine was built for prompts "
        "of {} tokens (max_input_len): free memory, or rebuild it with a smaller --maxInputLen",
        memory, fitting * kPageTokens, builder.max_input_len);
  }
  return static_cast<std::int32_t>(fitting);
}

SchedulerOptions scheduler_options(const RunnerParts& parts, const RunnerOptions& options) {
  const exec::EngineConfig& config = parts.engine->config();
  SchedulerOptions result;
  result.max_running = std::max(config.builder.max_batch_size, 1);
  result.prefill_chunk = prefill_chunk(*parts.engine, options);
  result.max_sequence_tokens = config.builder.max_kv_cache_capacity;
  if (const std::int64_t positions = parts.engine->plan().max_positions; positions > 0) {
    result.max_sequence_tokens = std::min(result.max_sequence_tokens, positions);
  }
  result.end_ids = config.eos_token_ids;
  return result;
}

class EngineRunner final : public Runner {
 public:
  EngineRunner(RunnerParts parts, const RunnerOptions& options)
      : parts_(std::move(parts)),
        stream_(options.stream),
        scheduler_(*parts_.backend, scheduler_options(parts_, options), profile_) {
    const exec::EngineConfig& config = parts_.engine->config();
    limits_.max_input_len = config.builder.max_input_len;
    limits_.max_kv_cache_capacity = config.builder.max_kv_cache_capacity;
    limits_.pool_tokens = std::int64_t{scheduler_.pool().num_pages()} * kPageTokens;
    limits_.sequence_tokens = scheduler_.max_sequence_tokens();
    limits_.vocab_size = config.vocab_size;
    limits_.bos_token_id = config.bos_token_id;
    EngineRunner::reset_profile();
  }

  std::vector<Response> run(const RequestFile& file, const Reporter& reporter) override;
  void begin(std::int32_t batch_size, const Reporter& reporter) override;
  std::int32_t submit(Request request) override;
  void cancel(std::int32_t request_idx) override;
  void cancel_all() override;
  std::vector<Response> step() override;
  std::size_t num_unfinished() const override { return queued_.size() + begun_.size(); }

  const exec::Engine& engine() const override { return *parts_.engine; }
  const text::Tokenizer& tokenizer() const override { return parts_.tokenizer; }
  const Backend& backend() const override { return *parts_.backend; }
  const Profile& profile() const override { return profile_; }
  void reset_profile() override;
  const exec::KvPool& pool() const override { return scheduler_.pool(); }
  void drop_prefixes() override { scheduler_.drop_prefixes(); }

 private:
  /// An answer that the scheduler works on, or that has ended.
  struct Begun {
    Scheduler::Id id = -1;
    std::unique_ptr<Answer> answer;
  };

  void prepare(std::unique_ptr<Answer> answer);
  Result<Prompt> prompt_of(const Request& request);
  void warn_ineffective(const Request& request, std::int32_t request_idx, const Prompt& prompt);

  RunnerParts parts_;
  StreamSink stream_;
  PromptLimits limits_;
  Profile profile_;
  Scheduler scheduler_;

  Reporter reporter_;
  std::int32_t next_idx_ = 0;
  std::size_t batch_size_ = 1;
  bool warned_of_thinking_ = false;
  std::deque<std::unique_ptr<Answer>> queued_;  // not yet looked at, in order
  std::vector<Begun> begun_;                    // in order
};

std::vector<Response> EngineRunner::run(const RequestFile& file, const Reporter& reporter) {
  begin(file.batch_size, reporter);
  for (const Request& request : file.requests) submit(request);
  std::vector<Response> responses(file.requests.size());
  while (num_unfinished() > 0) {
    for (Response& response : step()) {
      responses[static_cast<std::size_t>(response.request_idx)] = std::move(response);
    }
  }
  return responses;
}

void EngineRunner::begin(std::int32_t batch_size, const Reporter& reporter) {
  KV8_CHECK(num_unfinished() == 0, "{} requests have no response", num_unfinished());
  reporter_ = reporter;
  next_idx_ = 0;
  warned_of_thinking_ = false;
  const std::int32_t built = std::max(parts_.engine->config().builder.max_batch_size, 1);
  if (batch_size > built) {
    reporter.warn(
        fmt::format("batch_size {} is more than the engine's max_batch_size {}; {} "
                    "requests run at once",
                    batch_size, built, built));
  }
  const std::int32_t running = batch_size == 0 ? built : std::clamp(batch_size, 1, built);
  batch_size_ = static_cast<std::size_t>(running);
  scheduler_.set_max_running(running);
}

std::int32_t EngineRunner::submit(Request request) {
  queued_.push_back(
      std::make_unique<Answer>(next_idx_, std::move(request), parts_.tokenizer, stream_));
  return next_idx_++;
}

void EngineRunner::cancel(std::int32_t request_idx) {
  for (const Begun& begun : begun_) {
    if (begun.answer->request_idx() == request_idx) return scheduler_.cancel(begun.id);
  }
  const auto queued = std::ranges::lower_bound(
      queued_, request_idx, {}, [](const auto& answer) { return answer->request_idx(); });
  if (queued == queued_.end() || (*queued)->request_idx() != request_idx) return;
  begun_.push_back({-1, std::move(*queued)});
  queued_.erase(queued);
  begun_.back().answer->on_end({FinishReason::kNotFinished, nullptr, 0});
}

void EngineRunner::cancel_all() {
  scheduler_.cancel_all();
  for (auto& answer : queued_) {
    answer->on_end({FinishReason::kNotFinished, nullptr, 0});
    begun_.push_back({-1, std::move(answer)});
  }
  queued_.clear();
}

std::vector<Response> EngineRunner::step() {
  if (interrupted()) cancel_all();
  // One more than can run, so that the scheduler always has somebody to admit.
  while (!queued_.empty() && scheduler_.num_waiting() + scheduler_.num_running() <= batch_size_) {
    std::unique_ptr<Answer> next = std::move(queued_.front());
    queued_.pop_front();
    prepare(std::move(next));
  }
  scheduler_.step();
  std::vector<Response> responses;
  for (const Begun& begun : begun_) {
    if (begun.answer->ended()) responses.push_back(begun.answer->take_response());
  }
  std::erase_if(begun_, [](const Begun& begun) { return begun.answer->ended(); });
  if (num_unfinished() == 0) profile_.peak_memory_bytes = peak_memory();
  return responses;
}

void EngineRunner::prepare(std::unique_ptr<Answer> answer) {
  Answer& next = *answer;
  begun_.push_back({-1, std::move(answer)});
  const auto start = std::chrono::steady_clock::now();
  Result<Prompt> prompt = prompt_of(next.request());
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  profile_.tokenization.add(elapsed.count());
  if (!prompt.ok()) return next.fail(prompt.error());
  warn_ineffective(next.request(), next.request_idx(), *prompt);
  const Result<Scheduler::Id> id =
      scheduler_.submit(next.token_request(std::move(prompt).value()), next);
  if (!id.ok()) return next.fail(id.error());
  begun_.back().id = *id;
}

Result<Prompt> EngineRunner::prompt_of(const Request& request) {
  if (request.error) return *request.error;
  KV8_TRY(check_logit_bias(request.sampling, limits_.vocab_size));
  return prepare_prompt(request, parts_.tokenizer, parts_.chat_template, limits_);
}

void EngineRunner::warn_ineffective(const Request& request, std::int32_t request_idx,
                                    const Prompt& prompt) {
  const auto& chat = parts_.chat_template;
  if (request.enable_thinking && request.apply_chat_template && chat &&
      chat->generation_prompt_no_think.empty() && !warned_of_thinking_) {
    warned_of_thinking_ = true;
    reporter_.warn(
        "`enable_thinking` has no effect: the model's chat template has no thinking mode");
  }
  if (request.save_system_prompt_kv_cache && prompt.system_tokens < kPageTokens) {
    reporter_.warn(
        fmt::format("request {}: `save_system_prompt_kv_cache` has no effect: the system prompt "
                    "has {} tokens, whole pages of {} are kept",
                    request_idx, prompt.system_tokens, kPageTokens));
  }
}

void EngineRunner::reset_profile() {
  const Plan& plan = parts_.engine->plan();
  profile_ = {};
  profile_.backend = parts_.backend->name();
  profile_.kv_cache_dtype = parts_.engine->config().kv_cache_dtype;
  profile_.kv_bytes_per_token = plan.kv_bytes_per_token();
  profile_.kv_bytes_per_token_fp8 = kv_bytes_per_token(plan, DType::kF8E4M3);
  profile_.kv_bytes_per_token_fp16 = kv_bytes_per_token(plan, DType::kF16);
  profile_.kv_pool_bytes = limits_.pool_tokens * profile_.kv_bytes_per_token;
  const auto capacity = [&](std::int64_t bytes_per_token) {
    return profile_.kv_pool_bytes / (bytes_per_token * kPageTokens) * kPageTokens;
  };
  profile_.kv_capacity_tokens = limits_.pool_tokens;
  profile_.kv_capacity_tokens_fp8 = capacity(profile_.kv_bytes_per_token_fp8);
  profile_.kv_capacity_tokens_fp16 = capacity(profile_.kv_bytes_per_token_fp16);
}

Result<std::optional<text::ChatTemplate>> open_chat_template(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "processed_chat_template.json";
  std::error_code failure;
  if (!std::filesystem::exists(file, failure)) return std::optional<text::ChatTemplate>();
  return std::optional(KV8_TRY(text::read_chat_template(file)));
}

}  // namespace

Result<std::unique_ptr<Runner>> Runner::open(const std::filesystem::path& engine_dir,
                                             const RunnerOptions& options) {
  std::unique_ptr<exec::Engine> engine = KV8_TRY(exec::Engine::load(engine_dir));
  text::Tokenizer tokenizer = KV8_TRY(text::Tokenizer::load(engine_dir));
  std::optional<text::ChatTemplate> chat_template = KV8_TRY(open_chat_template(engine_dir));
  const std::int64_t sequences = engine->config().builder.max_batch_size;
  const std::int64_t rows = prefill_chunk(*engine, options) + sequences;
  BackendOptions backend_options;
  backend_options.num_threads = options.num_threads;
  backend_options.max_rows = rows;
  backend_options.max_logits_rows = sequences;
  backend_options.max_sequences = sequences;
  backend_options.num_pages = KV8_TRY(pool_pages(*engine, backend_options));
  std::unique_ptr<Backend> backend = KV8_TRY(engine->open_backend(backend_options));
  return create(
      {std::move(engine), std::move(backend), std::move(tokenizer), std::move(chat_template)},
      options);
}

std::unique_ptr<Runner> Runner::create(RunnerParts parts, const RunnerOptions& options) {
  return std::make_unique<EngineRunner>(std::move(parts), options);
}

}  // namespace kv8::runtime
