// Answering requests: from messages to responses, one after the other or as they come.
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
#include "runtime/scheduler.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kv8::runtime {

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
/// out to be part of a stop string. May call Runner::submit and cancel.
using StreamSink = std::function<void(std::int32_t request_idx, std::string_view text)>;

struct RunnerOptions {
  int num_threads = 0;
  std::int32_t prefill_chunk = 0;  ///< prompt tokens of one step; 0: what suits the backend
  StreamSink stream;
};

/// What a Runner is made of. The backend has been opened with exec::kv_pool_pages() pages and
/// prefill_chunk + max_batch_size rows; with fewer, chunks are smaller.
struct RunnerParts {
  std::unique_ptr<exec::Engine> engine;
  std::unique_ptr<Backend> backend;
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
};

/// One loaded engine with its tokenizer, chat template and KV cache, whose contents live as long
/// as the Runner. Requests run as the Scheduler says. Single-threaded.
class Runner {
 public:
  static Result<std::unique_ptr<Runner>> open(const std::filesystem::path& engine_dir,
                                              const RunnerOptions& options);
  static std::unique_ptr<Runner> create(RunnerParts parts, const RunnerOptions& options);
  virtual ~Runner() = default;

  /// Answers every request, at most `batch_size` at once; results are in request order. A failing
  /// request carries its own error. Once interrupted(), requests that run end as kCancelled with
  /// the text so far and the rest stay kNotFinished.
  virtual std::vector<Response> run(const RequestFile& file, const Reporter& reporter) = 0;

  /// Begins a series of requests, when none is left of the one before. They are numbered from 0. At
  /// most `batch_size` run at once, and at most the engine's max_batch_size (0: that many). The
  /// reporter is used until the next series.
  virtual void begin(std::int32_t batch_size, const Reporter& reporter) = 0;
  /// Accepts a request; it will have a response. Returns its number.
  virtual std::int32_t submit(Request request) = 0;
  /// Ends a request before the next step, as kCancelled, or kNotFinished if it had not begun.
  /// Nothing happens if it has ended, or never was.
  virtual void cancel(std::int32_t request_idx) = 0;
  virtual void cancel_all() = 0;
  /// Runs one step of all requests and returns the responses of those that ended, in that order.
  virtual std::vector<Response> step() = 0;
  /// Requests that have no response yet.
  virtual std::size_t num_unfinished() const = 0;

  virtual const exec::Engine& engine() const = 0;
  virtual const text::Tokenizer& tokenizer() const = 0;
  virtual const Backend& backend() const = 0;
  virtual const Profile& profile() const = 0;
  virtual void reset_profile() = 0;
  /// What the KV cache holds; for tests and diagnosis.
  virtual const exec::KvPool& pool() const = 0;
  /// Forgets everything that later requests could reuse.
  virtual void drop_prefixes() = 0;
};

/// The response file of the contract: docs/requests.md.
Status write_response_file(const RequestFile& requests, const std::vector<Response>& responses,
                           const std::filesystem::path& file);
/// One of its responses as a line of JSON, without the newline, with `id` (JSON text) if there is
/// one.
std::string response_line(const std::string& id, const Request& request, const Response& response);

}  // namespace kv8::runtime
