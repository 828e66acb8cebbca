// The loop that answers a file of requests: admission, prefill, decode, leaving.
#pragma once

#include <chrono>
#include <list>
#include <vector>

#include "runtime/generate.h"
#include "runtime/prefix_cache.h"
#include "runtime/prompt.h"
#include "runtime/stop_matcher.h"

namespace kv8::runtime {

/// What the scheduler works with; owned by the Runner.
struct SchedulerContext {
  const exec::Engine& engine;
  Backend& backend;
  exec::KvPool& pool;
  PrefixCache& prefixes;
  const text::Tokenizer& tokenizer;
  const std::optional<text::ChatTemplate>& chat_template;
  const RunnerOptions& options;
  const PromptLimits& limits;
  Profile& profile;
};

/// One call of Runner::run.
class Scheduler {
 public:
  Scheduler(const SchedulerContext& context, const RequestFile& file, const Reporter& reporter);
  std::vector<Response> run();

 private:
  /// A request that holds a place in the batch.
  struct Active {
    Active(const SchedulerContext& context, const Request& wanted, Response& answer)
        : request(&wanted),
          response(&answer),
          sequence(context.pool),
          decoder(context.tokenizer),
          stops(wanted.sampling.stop) {
      for (const auto& [id, bias] : wanted.sampling.logit_bias) logit_bias.push_back({id, bias});
    }

    SampleRow sample_row() const;

    const Request* request;
    Response* response;
    Prompt prompt;
    exec::Sequence sequence;
    text::StreamDecoder decoder;
    StopMatcher stops;
    std::vector<LogitBias> logit_bias;
    std::int64_t max_new = 0;         // tokens that the answer may have
    std::int64_t reserved_pages = 0;  // for the longest possible answer
    std::int32_t next_token = -1;     // sampled, not yet in the cache
    bool started = false;             // looked for a kept prefix
    bool finished = false;

    bool prefilling() const { return response->output_ids.empty() && !finished; }
  };

  void warn_ineffective() const;
  void prepare(std::size_t index);
  void admit();
  bool make_room(std::int64_t pages);
  std::int64_t unreserved_pages() const;
  std::int32_t free_slot() const;

  void prefill_step();
  Status start_prefill(Active& active);
  Status prefill_chunk(Active& active);
  Status keep_system_prompt(Active& active);
  void decode_step();

  Status sample(std::span<Active* const> running);
  void accept(Active& active, const SampledToken& sampled);
  void emit(Active& active, std::string_view text);
  void finish(Active& active, FinishReason reason);
  void fail(Active& active, const Error& error);

  const SchedulerContext& context_;
  const RequestFile& file_;
  const Reporter& reporter_;
  std::size_t batch_size_;
  std::vector<Response> responses_;
  std::size_t next_request_ = 0;
  std::optional<Active> candidate_;  // prepared, waiting for pages
  std::list<Active> active_;         // in the order of the file
};

}  // namespace kv8::runtime
