// Continuous batching over token ids: who runs, what each step computes, who makes way. Knows
// nothing of text. docs/scheduling.md says why it works as it does.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "exec/sequence.h"
#include "ops/sampling.h"
#include "runtime/profile.h"

namespace kv8::runtime {

enum class FinishReason {
  kEndOfSequence,
  kMaxLength,
  kStopWords,
  kCancelled,
  kError,
  kNotFinished  ///< cancelled before it began
};
std::string_view finish_reason_name(FinishReason reason);

/// A prompt to go on from.
struct TokenRequest {
  std::vector<std::int32_t> prompt;  ///< at least one id; all inside the vocabulary
  SampleRow sampling;                ///< `step` and `logit_bias` are set by the scheduler
  std::vector<LogitBias> logit_bias;
  std::int64_t max_new_tokens = 256;  ///< less where the cache of one sequence ends before
  std::int32_t keep_tokens = 0;       ///< leading tokens whose full pages are to be kept
};

struct Ending {
  FinishReason reason = FinishReason::kNotFinished;
  const Error* error = nullptr;  ///< for kError alone
  std::int32_t batch_place = 0;  ///< that the request ran at last, 0 to max_running - 1
};

/// Whom one request's tokens are for. May call Scheduler::submit and cancel.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  /// The next token of the answer, not one of SchedulerOptions::end_ids. False ends the request
  /// with kStopWords.
  virtual bool on_token(const SampledToken& token) = 0;
  /// The last call.
  virtual void on_end(const Ending& ending) = 0;
};

struct SchedulerOptions {
  std::int32_t max_running = 1;  ///< requests that hold a place in the batch at once
  /// Prompt tokens of one step, those of several requests together; the decode tokens of the step
  /// come on top, so that neither kind waits for the other. The backend takes max_running rows
  /// more than this.
  std::int32_t prefill_chunk = 256;
  std::int64_t max_sequence_tokens = 0;  ///< in the cache; the pool may hold less
  std::vector<std::int32_t> end_ids;     ///< tokens that end an answer and are not part of it
  /// Tokens that a request generates at least between its admission and a preemption. As many as
  /// the longest answer: its pages are reserved and nobody is ever preempted.
  std::int64_t runway = kPageTokens;
};

/// Requests are served in the order of their submission: a later one never takes memory from an
/// earlier one. Single-threaded.
class Scheduler {
 public:
  using Id = std::int64_t;  ///< ascending in the order of submission

  /// Everything must outlive the scheduler, and sinks the end of their request.
  Scheduler(Backend& backend, SchedulerOptions options, Profile& profile);
  ~Scheduler();

  /// kCapacity, with the numbers, for a prompt that can never fit; everything else is answered.
  Result<Id> submit(TokenRequest request, TokenSink& sink);
  /// Ends a request before the next step. Nothing happens if it has ended.
  void cancel(Id id);
  void cancel_all();

  /// Runs one step. False when there was nothing to do: no request is left.
  bool step();

  std::size_t num_waiting() const { return waiting_.size(); }
  std::size_t num_running() const { return running_.size(); }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  /// For an idle scheduler: at most as many as it was made with.
  void set_max_running(std::int32_t max_running);
  /// Tokens that one sequence can have in the cache.
  std::int64_t max_sequence_tokens() const { return options_.max_sequence_tokens; }
  const exec::KvPool& pool() const { return pool_; }
  /// Forgets all prefixes, the kept ones too.
  void drop_prefixes();

 private:
  struct Entry;
  struct StepTokens {
    std::int64_t prefill = 0, decode = 0;
  };
  using Entries = std::vector<std::unique_ptr<Entry>>;

  void end_cancelled();
  void admit();
  bool fits(const Entry& candidate) const;
  void start(std::unique_ptr<Entry> entry);
  bool make_room(std::size_t index);
  void preempt_last();

  void add_decode_items();
  void add_prefill_items();
  void add_item(Entry& entry, std::int32_t count);
  bool is_being_computed(const Entry& entry) const;
  std::int32_t chunk_of(const Entry& entry, std::int32_t budget) const;
  void run_items();
  Status sample();
  void count_step(const StepTokens& tokens, double ms);
  void note_written(Entry& entry);
  void accept(Entry& entry, const SampledToken& token);
  void end(Entry& entry, FinishReason reason, const Error* error = nullptr);
  void keep_prefix(Entry& entry);
  void touch_kept(const exec::Sequence& sequence);

  Backend& backend_;
  SchedulerOptions options_;
  Profile& profile_;
  exec::KvPool pool_;
  std::list<exec::Sequence> kept_;  // prefixes that are not to be forgotten, latest use first
  Id next_id_ = 0;
  std::deque<std::unique_ptr<Entry>> waiting_;  // by id; all later than those running
  Entries running_;                             // by id
  std::vector<bool> places_;                    // of the batch: taken or not
  bool any_cancelled_ = false;

  // Of the step that is being put together; kept for their memory.
  std::vector<Entry*> entries_, sampled_entries_;
  std::vector<exec::StepItem> items_;
  std::vector<SampleRow> sample_rows_;
  std::vector<SampledToken> sampled_;
};

}  // namespace kv8::runtime
