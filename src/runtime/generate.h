// Answering requests: admission, batching, sampling, streaming.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "exec/engine.h"
#include "runtime/profile.h"
#include "runtime/request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kv8::runtime {

enum class FinishReason {
  kEndOfSequence,
  kMaxLength,
  kStopWords,
  kCancelled,
  kError,
  kNotFinished
};
std::string_view finish_reason_name(FinishReason reason);

struct TokenLogprob {
  std::int32_t token_id = 0;
  std::string bytes;
  float logprob = 0.0f;  ///< natural logarithm, at temperature 1, before logit_bias
};
struct LogprobEntry {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  ///< best first
};

struct Response {
  std::int32_t request_idx = 0;
  std::int32_t batch_idx = 0;  ///< place in the batch that the request ran at
  std::string output_text;
  /// Generated tokens without the end-of-sequence token; `logprobs` has one entry for each.
  std::vector<std::int32_t> output_ids;
  FinishReason finish_reason = FinishReason::kNotFinished;
  std::optional<Error> error;
  std::string formatted_system_prompt, formatted_complete_request;
  std::vector<LogprobEntry> logprobs;
};

/// New text of a request as it is generated, whole characters only, nothing that may still turn
/// out to be part of a stop string.
using StreamSink = std::function<void(std::int32_t request_idx, std::string_view text)>;

struct RunnerOptions {
  int num_threads = 0;
  std::int32_t prefill_chunk = 256;  ///< prompt tokens of one step
  StreamSink stream;
};

/// What a Runner is made of. The backend has been opened with exec::kv_pool_pages() pages and at least
/// max(prefill_chunk, max_batch_size) rows.
struct RunnerParts {
  std::unique_ptr<exec::Engine> engine;
  std::unique_ptr<Backend> backend;
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
};

/// One loaded engine with its tokenizer, chat template and KV pool. System prompts kept by
/// `save_system_prompt_kv_cache` live as long as the Runner.
///
/// Prompts are computed one request at a time in the order of the file, in chunks, a decode step of
/// all running requests after each chunk. A request starts when a place in the batch and the pages
/// of its longest possible answer are free, so that a running request never lacks pages.
class Runner {
 public:
  static Result<std::unique_ptr<Runner>> open(const std::filesystem::path& engine_dir,
                                              const RunnerOptions& options);
  static std::unique_ptr<Runner> create(RunnerParts parts, const RunnerOptions& options);
  virtual ~Runner() = default;
  /// Answers every request, at most `batch_size` at once; results are in request order and do not
  /// depend on the batch size. A failing request carries its own error. Once interrupted(), running
  /// requests end as kCancelled with the text so far and the rest stay kNotFinished.
  virtual std::vector<Response> run(const RequestFile& file, const Reporter& reporter) = 0;
  virtual const exec::Engine& engine() const = 0;
  virtual const text::Tokenizer& tokenizer() const = 0;
  virtual const Profile& profile() const = 0;
  virtual void reset_profile() = 0;
};

/// The response file of the contract: docs/requests.md.
Status write_response_file(const RequestFile& requests, const std::vector<Response>& responses,
                           const std::filesystem::path& file);

}  // namespace kv8::runtime
