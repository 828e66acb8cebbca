#include "eval/eval.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "base/file.h"
#include "base/hash.h"
#include "eval/compare_logits.h"
#include "exec/backends.h"
#include "exec/sequence.h"
#include "io/checkpoint.h"
#include "ops/kv_layout.h"
#include "quant/dataset.h"

extern "C" const char kHeldOutText[];
extern "C" const char kHeldOutTextEnd[];

namespace kv8::eval {
namespace {

using Tokens = std::span<const std::int32_t>;

/// Bytes of one model's logits that are held at a time.
constexpr std::int64_t kLogitsBytes = 32 << 20;

/// Rows of a step, so that their logits stay within kLogitsBytes.
std::int32_t rows_per_step(std::int32_t vocab_size) {
  const std::int64_t rows = kLogitsBytes / (std::int64_t{sizeof(float)} * vocab_size);
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(rows, 16, 256));
}

/// One of the two models, with room for one window.
class Model {
 public:
  static Result<Model> open(const EvalOptions& options, const std::string& backend, bool kv_fp8,
                            std::int64_t window) {
    exec::BuilderConfig config;
    config.backend = backend;
    config.max_input_len = static_cast<std::int32_t>(window);
    config.max_kv_cache_capacity = config.max_input_len;
    config.max_batch_size = 1;
    Model model;
    model.engine_ = KV8_TRY(exec::Engine::from_checkpoint(options.checkpoint_dir, kv_fp8, config));
    const auto pages = static_cast<std::int32_t>(pages_for_tokens(window));
    model.backend_ = KV8_TRY(
        model.engine_->open_backend({.num_threads = options.num_threads,
                                     .num_pages = pages,
                                     .max_rows = rows_per_step(model.engine_->plan().vocab_size),
                                     .max_sequences = 1}));
    model.pool_ = std::make_unique<exec::KvPool>(pages);
    model.sequence_ = std::make_unique<exec::Sequence>(*model.pool_);
    return model;
  }

  void start_window() { sequence_->clear(); }
  /// Logits after each of `tokens`, until the next call.
  Status run(Tokens tokens) {
    exec::StepItem item{sequence_.get(), tokens, exec::StepItem::Logits::kAll};
    return exec::run_step(*engine_, *backend_, std::span(&item, 1), logits_);
  }
  /// Of the first `rows` tokens of the last call.
  std::span<const float> logits(std::size_t rows) const {
    return std::span<const float>(logits_).first(
        rows * static_cast<std::size_t>(engine_->plan().vocab_size));
  }
  const Plan& plan() const { return engine_->plan(); }

 private:
  std::unique_ptr<exec::Engine> engine_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<exec::KvPool> pool_;
  std::unique_ptr<exec::Sequence> sequence_;
  std::vector<float> logits_;
};

struct HeldOut {
  std::string name, sha256;
  std::vector<std::vector<std::int32_t>> windows;
};

Result<HeldOut> load_text(const EvalOptions& options, std::int64_t window,
                          const text::Tokenizer& tokenizer, std::int32_t vocab_size) {
  HeldOut held_out;
  std::string from_file;
  std::string_view text = held_out_text();
  held_out.name = "held-out";
  if (!options.text_file.empty()) {
    from_file = KV8_TRY(read_text_file(options.text_file));
    text = from_file;
    held_out.name = options.text_file;
  }
  held_out.sha256 = sha256_hex(text);
  std::int64_t left =
      options.max_tokens > 0 ? options.max_tokens : std::numeric_limits<std::int64_t>::max();
  const std::int64_t needed = left / window + (left % window != 0);
  for (auto& tokens : quant::split_windows(tokenizer, text, window, needed)) {
    tokens.resize(
        static_cast<std::size_t>(std::min(left, static_cast<std::int64_t>(tokens.size()))));
    left -= static_cast<std::int64_t>(tokens.size());
    for (const std::int32_t id : tokens) {
      if (id < 0 || id >= vocab_size) {
        return bad_input("the tokenizer gives token {}, but the model's vocabulary has {}", id,
                         vocab_size);
      }
    }
    if (tokens.size() >= 2) held_out.windows.push_back(std::move(tokens));
  }
  if (held_out.windows.empty()) {
    return bad_input("{}: the text has less than two tokens", held_out.name);
  }
  return held_out;
}

/// Runs one window through both models, a step at a time.
Status score_window(Model& fp16, Model& fp8, Tokens tokens, ThreadPool& threads,
                    PredictionSums& sums) {
  fp16.start_window();
  fp8.start_window();
  const auto step = static_cast<std::size_t>(rows_per_step(fp16.plan().vocab_size));
  // The last token has nothing to predict.
  for (std::size_t begin = 0; begin + 1 < tokens.size(); begin += step) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    const std::size_t rows = std::min(step, tokens.size() - 1 - begin);
    KV8_TRY(fp16.run(tokens.subspan(begin, rows)));
    KV8_TRY(fp8.run(tokens.subspan(begin, rows)));
    sums.add(KV8_TRY(compare_logits(fp16.logits(rows), fp8.logits(rows),
                                    tokens.subspan(begin + 1, rows), threads)));
  }
  return {};
}

Status score_windows(Model& fp16, Model& fp8, const HeldOut& held_out, ThreadPool& threads,
                     ProgressSink* progress, PredictionSums& sums) {
  std::int64_t done = 0;
  for (const auto& window : held_out.windows) {
    KV8_TRY(score_window(fp16, fp8, window, threads, sums));
    done += static_cast<std::int64_t>(window.size());
    if (progress != nullptr) progress->advance(done);
  }
  return {};
}

}  // namespace

std::string_view held_out_text() { return {kHeldOutText, kHeldOutTextEnd}; }

Result<EvalResult> evaluate_kv_cache(const EvalOptions& options, const Reporter& reporter) {
  const io::Checkpoint checkpoint = KV8_TRY(io::Checkpoint::open(options.checkpoint_dir));
  if (!checkpoint.quantization().kv_cache_fp8) {
    return bad_input(
        "{}: the checkpoint has no FP8 KV cache to compare; run `kv8 quantize llm "
        "--kv_cache_quantization fp8` first",
        options.checkpoint_dir.string());
  }
  if (options.window_tokens < 2 || options.max_tokens < 0) {
    return usage_error("windows of {} tokens and at most {} tokens cannot be scored",
                       options.window_tokens, options.max_tokens);
  }
  const std::int64_t window =
      std::min<std::int64_t>(options.window_tokens, checkpoint.config().max_position_embeddings);
  const text::Tokenizer tokenizer = KV8_TRY(text::Tokenizer::load(options.checkpoint_dir));
  const HeldOut held_out =
      KV8_TRY(load_text(options, window, tokenizer, checkpoint.config().vocab_size));
  const std::string backend = exec::choose_backend(options.backend, reporter);
  Model fp16 = KV8_TRY(Model::open(options, backend, false, window));
  Model fp8 = KV8_TRY(Model::open(options, backend, true, window));

  std::int64_t total = 0;
  for (const auto& tokens : held_out.windows) total += static_cast<std::int64_t>(tokens.size());
  if (reporter.progress != nullptr) reporter.progress->begin("evaluating", total, "tokens");
  PredictionSums sums;
  ThreadPool threads(options.num_threads);
  const Status status = score_windows(fp16, fp8, held_out, threads, reporter.progress, sums);
  if (reporter.progress != nullptr) reporter.progress->end();
  if (!status.ok()) return status.error();

  const auto positions = static_cast<double>(sums.positions);
  EvalResult result;
  result.num_tokens = sums.positions;
  result.kv_bytes_per_token_fp16 = fp16.plan().kv_bytes_per_token();
  result.kv_bytes_per_token_fp8 = fp8.plan().kv_bytes_per_token();
  result.perplexity_fp16 = std::exp(sums.nll_a / positions);
  result.perplexity_fp8 = std::exp(sums.nll_b / positions);
  result.mean_kl = sums.kl / positions;
  result.top1_agreement = static_cast<double>(sums.top1_agreements) / positions;
  result.text_name = held_out.name;
  result.text_sha256 = held_out.sha256;
  return result;
}

}  // namespace kv8::eval
