#include "runtime/generate.h"

#include <sys/resource.h>

#include <algorithm>
#include <limits>
#include <system_error>

#include "ops/kv_layout.h"
#include "runtime/scheduler.h"

namespace kv8::runtime {
namespace {

std::int64_t peak_memory() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

class EngineRunner final : public Runner {
 public:
  EngineRunner(RunnerParts parts, const RunnerOptions& options)
      : parts_(std::move(parts)), options_(options), pool_(parts_.backend->num_pages()) {
    const exec::EngineConfig& config = parts_.engine->config();
    options_.prefill_chunk = static_cast<std::int32_t>(
        std::clamp<std::int64_t>(options.prefill_chunk, 1, parts_.backend->max_rows()));
    limits_.max_input_len = config.builder.max_input_len;
    limits_.max_kv_cache_capacity = config.builder.max_kv_cache_capacity;
    limits_.pool_tokens = std::int64_t{pool_.num_pages()} * kPageTokens;
    limits_.max_positions = parts_.engine->plan().max_positions;
    limits_.vocab_size = config.vocab_size;
    limits_.bos_token_id = config.bos_token_id;
    EngineRunner::reset_profile();
  }

  std::vector<Response> run(const RequestFile& file, const Reporter& reporter) override {
    const SchedulerContext context{*parts_.engine, *parts_.backend,  pool_,
                                   prefixes_,      parts_.tokenizer, parts_.chat_template,
                                   options_,       limits_,          profile_};
    std::vector<Response> responses = Scheduler(context, file, reporter).run();
    profile_.peak_memory_bytes = peak_memory();
    return responses;
  }

  const exec::Engine& engine() const override { return *parts_.engine; }
  const text::Tokenizer& tokenizer() const override { return parts_.tokenizer; }
  const Profile& profile() const override { return profile_; }

  void reset_profile() override {
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
    profile_.peak_memory_bytes = peak_memory();
  }

 private:
  RunnerParts parts_;
  RunnerOptions options_;
  PromptLimits limits_;
  exec::KvPool pool_;
  PrefixCache prefixes_;  // holds pages of pool_
  Profile profile_;
};

Result<std::optional<text::ChatTemplate>> open_chat_template(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "processed_chat_template.json";
  std::error_code failure;
  if (!std::filesystem::exists(file, failure)) return std::optional<text::ChatTemplate>();
  return std::optional(KV8_TRY(text::read_chat_template(file)));
}

}  // namespace

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfSequence:
      return "end-of-sequence";
    case FinishReason::kMaxLength:
      return "max-length";
    case FinishReason::kStopWords:
      return "stop-words";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
    case FinishReason::kNotFinished:
      return "not-finished";
  }
  KV8_CHECK(false, "finish reason {}", static_cast<int>(reason));
}

Result<std::unique_ptr<Runner>> Runner::open(const std::filesystem::path& engine_dir,
                                             const RunnerOptions& options) {
  std::unique_ptr<exec::Engine> engine = KV8_TRY(exec::Engine::load(engine_dir));
  text::Tokenizer tokenizer = KV8_TRY(text::Tokenizer::load(engine_dir));
  std::optional<text::ChatTemplate> chat_template = KV8_TRY(open_chat_template(engine_dir));
  const std::int32_t pages = KV8_TRY(exec::kv_pool_pages(engine->config().builder, engine->plan()));
  const std::int64_t rows =
      std::max(options.prefill_chunk, engine->config().builder.max_batch_size);
  const std::int64_t sequences = engine->config().builder.max_batch_size;
  std::unique_ptr<Backend> backend =
      KV8_TRY(engine->open_backend({.num_threads = options.num_threads,
                                    .num_pages = pages,
                                    .max_rows = rows,
                                    .max_logits_rows = sequences,
                                    .max_sequences = sequences}));
  return create(
      {std::move(engine), std::move(backend), std::move(tokenizer), std::move(chat_template)},
      options);
}

std::unique_ptr<Runner> Runner::create(RunnerParts parts, const RunnerOptions& options) {
  return std::make_unique<EngineRunner>(std::move(parts), options);
}

}  // namespace kv8::runtime
