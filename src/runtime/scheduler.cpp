#include "runtime/scheduler.h"

#include <algorithm>
#include <chrono>

#include "ops/kv_layout.h"

namespace kv8::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
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

struct Scheduler::Entry {
  Entry(Id number, TokenRequest request, TokenSink& listener, exec::KvPool& pool)
      : id(number),
        sink(&listener),
        tokens(std::move(request.prompt)),
        sampling(request.sampling),
        logit_bias(std::move(request.logit_bias)),
        max_new(request.max_new_tokens),
        keep_tokens(std::min(request.keep_tokens, static_cast<std::int32_t>(tokens.size()))),
        max_tokens(static_cast<std::int64_t>(tokens.size()) + max_new - 1),
        sequence(pool) {
    sampling.logit_bias = logit_bias;
    sampling.step = 0;
  }

  /// Tokens that are not in the cache. 1 in decoding.
  std::int32_t pending() const {
    return static_cast<std::int32_t>(tokens.size()) - sequence.length();
  }
  bool decoding() const { return sampling.step > 0 && pending() == 1; }
  /// Pages to take for everything known and `steps` more tokens.
  std::int64_t pages_until(std::int64_t steps) const {
    const std::int64_t length =
        std::min(static_cast<std::int64_t>(tokens.size()) + steps, max_tokens);
    const auto held = static_cast<std::int64_t>(sequence.pages().size());
    return std::max<std::int64_t>(0, pages_for_tokens(length) - held);
  }

  Id id;
  TokenSink* sink;
  std::vector<std::int32_t> tokens;  // the prompt and the answer so far
  SampleRow sampling;                // `step` counts the answer's tokens
  std::vector<LogitBias> logit_bias;
  std::int64_t max_new;
  std::int32_t keep_tokens;
  std::int64_t max_tokens;  // ever in the cache: an answer's last token is not fed back
  exec::Sequence sequence;
  std::int32_t place = 0;
  bool started = false, cancelled = false, ended = false;
};

Scheduler::Scheduler(Backend& backend, SchedulerOptions options, Profile& profile)
    : backend_(backend),
      options_(std::move(options)),
      profile_(profile),
      pool_(backend.num_pages()),
      places_(static_cast<std::size_t>(options_.max_running)) {
  KV8_CHECK(options_.max_running > 0 && options_.max_running < backend.max_rows(),
            "{} requests at once, {} rows", options_.max_running, backend.max_rows());
  options_.prefill_chunk = static_cast<std::int32_t>(std::clamp<std::int64_t>(
      options_.prefill_chunk, 1, backend.max_rows() - options_.max_running));
  const std::int64_t pool_tokens = std::int64_t{pool_.num_pages()} * kPageTokens;
  options_.max_sequence_tokens = std::min(options_.max_sequence_tokens, pool_tokens);
}

Scheduler::~Scheduler() = default;

void Scheduler::set_max_running(std::int32_t max_running) {
  KV8_CHECK(idle() && max_running > 0 && static_cast<std::size_t>(max_running) <= places_.size(),
            "{} requests at once, {} in the making", max_running, places_.size());
  options_.max_running = max_running;
}

Result<Scheduler::Id> Scheduler::submit(TokenRequest request, TokenSink& sink) {
  const auto prompt_tokens = static_cast<std::int64_t>(request.prompt.size());
  KV8_CHECK(prompt_tokens > 0 && request.max_new_tokens > 0, "{} tokens, {} new ones",
            prompt_tokens, request.max_new_tokens);
  if (prompt_tokens > options_.max_sequence_tokens) {
    return capacity_error(
        "the prompt has {} tokens, but the KV cache holds {} of one sequence ({} pages of {} in "
        "all)",
        prompt_tokens, options_.max_sequence_tokens, pool_.num_pages(), kPageTokens);
  }
  request.max_new_tokens =
      std::min(request.max_new_tokens, options_.max_sequence_tokens - prompt_tokens + 1);
  waiting_.push_back(std::make_unique<Entry>(next_id_, std::move(request), sink, pool_));
  return next_id_++;
}

void Scheduler::cancel(Id id) {
  const auto mark = [&](auto& entries) {
    const auto place =
        std::ranges::lower_bound(entries, id, {}, [](const auto& e) { return e->id; });
    if (place == entries.end() || (*place)->id != id) return;
    (*place)->cancelled = any_cancelled_ = true;
  };
  mark(running_);
  mark(waiting_);
}

void Scheduler::cancel_all() {
  for (const auto& entry : running_) entry->cancelled = true;
  for (const auto& entry : waiting_) entry->cancelled = true;
  any_cancelled_ = true;
}

void Scheduler::drop_prefixes() {
  kept_.clear();
  pool_.drop_cached();
}

bool Scheduler::step() {
  end_cancelled();
  admit();
  if (running_.empty()) return false;
  entries_.clear();
  items_.clear();
  add_decode_items();
  add_prefill_items();
  run_items();
  std::erase_if(running_, [](const auto& entry) { return entry->ended; });
  return true;
}

void Scheduler::end_cancelled() {
  if (!any_cancelled_) return;
  any_cancelled_ = false;
  // Taken out first: sinks may submit and cancel.
  Entries cancelled;
  const auto take_out = [&](auto& entries) {
    for (auto& entry : entries) {
      if (entry->cancelled) cancelled.push_back(std::move(entry));
    }
    std::erase(entries, nullptr);
  };
  take_out(running_);
  take_out(waiting_);
  for (const auto& entry : cancelled) {
    end(*entry, entry->started ? FinishReason::kCancelled : FinishReason::kNotFinished);
  }
}

/// In the order of submission: who does not fit is not overtaken.
void Scheduler::admit() {
  while (!waiting_.empty() && std::ssize(running_) < options_.max_running) {
    Entry& next = *waiting_.front();
    const std::int32_t reused = next.sequence.reuse(next.tokens);
    if (fits(next)) {
      profile_.reused_tokens += reused;
      if (reused > 0) touch_kept(next.sequence);
      start(std::move(waiting_.front()));
      waiting_.pop_front();
      continue;
    }
    next.sequence.clear();
    if (!running_.empty()) return;
    KV8_CHECK(!kept_.empty(), "{} tokens do not fit an empty pool of {} pages", next.tokens.size(),
              pool_.num_pages());
    kept_.pop_back();
  }
}

/// Whether there are pages for the candidate and everybody running until all of their prompts are
/// computed and a runway of steps more is made. Alone, a request fits as it is.
bool Scheduler::fits(const Entry& candidate) const {
  if (running_.empty()) return candidate.pages_until(0) <= pool_.num_available();
  // Every step takes a whole chunk of the first prompt that is not through.
  const std::int32_t chunk = options_.prefill_chunk < kPageTokens
                                 ? options_.prefill_chunk
                                 : options_.prefill_chunk / kPageTokens * kPageTokens;
  std::int64_t steps = options_.runway + (candidate.pending() + chunk - 1) / chunk;
  for (const auto& entry : running_) {
    if (!entry->decoding()) steps += (entry->pending() + chunk - 1) / chunk;
  }
  std::int64_t pages = candidate.pages_until(steps);
  for (const auto& entry : running_) pages += entry->pages_until(steps);
  return pages <= pool_.num_available();
}

/// Takes the pages of everything that is to be computed before the next token.
void Scheduler::start(std::unique_ptr<Entry> entry) {
  entry->sequence.reserve(entry->pending()).value();
  entry->place = static_cast<std::int32_t>(std::ranges::find(places_, false) - places_.begin());
  places_[static_cast<std::size_t>(entry->place)] = true;
  if (!entry->started) ++profile_.prompts;
  entry->started = true;
  running_.push_back(std::move(entry));
}

/// Provides for the next token of running_[index]: the last to come make way first. False if it had
/// to make way itself. The first to come never does; it alone can use up the kept prefixes.
bool Scheduler::make_room(std::size_t index) {
  while (running_[index]->sequence.pages_lacking(1) > pool_.num_available()) {
    if (running_.size() == 1) {
      KV8_CHECK(!kept_.empty(), "{} tokens do not fit an empty pool of {} pages",
                running_[0]->tokens.size(), pool_.num_pages());
      kept_.pop_back();
      continue;
    }
    preempt_last();
    if (running_.size() == index) return false;
  }
  running_[index]->sequence.reserve(1).value();
  return true;
}

/// Its tokens are computed again later, where its pages have not stayed cached until then.
void Scheduler::preempt_last() {
  std::unique_ptr<Entry> entry = std::move(running_.back());
  running_.pop_back();
  entry->sequence.clear();
  places_[static_cast<std::size_t>(entry->place)] = false;
  ++profile_.preemptions;
  waiting_.push_front(std::move(entry));
}

void Scheduler::add_decode_items() {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    if (running_[i]->pending() != 1) continue;
    if (!make_room(i)) return;
    add_item(*running_[i], 1);
  }
}

void Scheduler::add_prefill_items() {
  std::int32_t budget = options_.prefill_chunk;
  for (const auto& entry : running_) {
    if (budget == 0) return;
    if (entry->pending() == 1) continue;  // a decode item
    // Pages that another request has filled since this one was admitted.
    profile_.reused_tokens += entry->sequence.reuse(entry->tokens);
    if (is_being_computed(*entry)) continue;
    const std::int32_t count = chunk_of(*entry, budget);
    if (count == 0) return;
    add_item(*entry, count);
    budget -= count;
  }
}

/// Whether an item of this step computes the next page of `entry`, which then can have it in the
/// next step.
bool Scheduler::is_being_computed(const Entry& entry) const {
  const auto begin = static_cast<std::size_t>(entry.sequence.length());
  if (begin % kPageTokens != 0 || begin + kPageTokens >= entry.tokens.size()) return false;
  const auto next = std::span(entry.tokens).subspan(begin, kPageTokens);
  const auto computes_it = [&](const exec::StepItem& item) {
    const exec::Sequence& other = *item.sequence;
    return other.length() == entry.sequence.length() && item.tokens.size() >= kPageTokens &&
           (begin == 0 || other.pages()[begin / kPageTokens - 1] ==
                              entry.sequence.pages()[begin / kPageTokens - 1]) &&
           std::ranges::equal(item.tokens.first(kPageTokens), next);
  };
  return std::ranges::any_of(items_, computes_it);
}

/// A chunk that is not the last ends with a page, so that requests of the same text share it.
std::int32_t Scheduler::chunk_of(const Entry& entry, std::int32_t budget) const {
  const std::int32_t count = std::min(entry.pending(), budget);
  if (count == entry.pending() || options_.prefill_chunk < kPageTokens) return count;
  const std::int32_t length = entry.sequence.length();
  return std::max(0, (length + count) / kPageTokens * kPageTokens - length);
}

void Scheduler::add_item(Entry& entry, std::int32_t count) {
  exec::StepItem item;
  item.sequence = &entry.sequence;
  item.tokens = std::span<const std::int32_t>(entry.tokens)
                    .subspan(static_cast<std::size_t>(entry.sequence.length()),
                             static_cast<std::size_t>(count));
  item.logits =
      count == entry.pending() ? exec::StepItem::Logits::kLast : exec::StepItem::Logits::kNone;
  entries_.push_back(&entry);
  items_.push_back(item);
}

void Scheduler::run_items() {
  const auto start = Clock::now();
  StepTokens tokens;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    (entries_[i]->decoding() ? tokens.decode : tokens.prefill) += std::ssize(items_[i].tokens);
  }
  Status status = exec::run_step(backend_, items_);
  if (status.ok()) status = sample();
  if (!status.ok()) {
    for (Entry* entry : entries_) end(*entry, FinishReason::kError, &status.error());
    return;
  }
  count_step(tokens, ms_since(start));
  for (Entry* entry : entries_) note_written(*entry);
  for (std::size_t i = 0; i < sampled_entries_.size(); ++i)
    accept(*sampled_entries_[i], sampled_[i]);
}

/// Draws the next token of every item that is complete with this step.
Status Scheduler::sample() {
  sampled_entries_.clear();
  sample_rows_.clear();
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (items_[i].logits == exec::StepItem::Logits::kNone) continue;
    sampled_entries_.push_back(entries_[i]);
    sample_rows_.push_back(entries_[i]->sampling);
  }
  if (sample_rows_.empty()) return {};
  const auto start = Clock::now();
  sampled_.assign(sample_rows_.size(), {});
  KV8_TRY(backend_.sample(sample_rows_, sampled_));
  profile_.sampling.add(ms_since(start));
  return {};
}

void Scheduler::count_step(const StepTokens& tokens, double ms) {
  if (tokens.prefill == 0) {
    profile_.generation.add(ms);
    profile_.decode_tokens += tokens.decode;
  } else if (tokens.decode == 0) {
    profile_.prefill.add(ms);
    profile_.prefill_tokens += tokens.prefill;
  } else {
    profile_.mixed.add(ms);
    profile_.mixed_prefill_tokens += tokens.prefill;
    profile_.mixed_decode_tokens += tokens.decode;
  }
}

void Scheduler::note_written(Entry& entry) {
  entry.sequence.index(entry.tokens);
  if (entry.keep_tokens > 0 && entry.sequence.length() >= entry.keep_tokens) keep_prefix(entry);
}

void Scheduler::accept(Entry& entry, const SampledToken& token) {
  if (const Status status = check_sampled(token); !status.ok()) {
    return end(entry, FinishReason::kError, &status.error());
  }
  ++profile_.generated_tokens;
  if (std::ranges::find(options_.end_ids, token.chosen.id) != options_.end_ids.end()) {
    return end(entry, FinishReason::kEndOfSequence);
  }
  entry.tokens.push_back(token.chosen.id);
  ++entry.sampling.step;
  if (!entry.sink->on_token(token)) return end(entry, FinishReason::kStopWords);
  if (static_cast<std::int64_t>(entry.sampling.step) >= entry.max_new) {
    end(entry, FinishReason::kMaxLength);
  }
}

void Scheduler::end(Entry& entry, FinishReason reason, const Error* error) {
  if (!entry.sequence.pages().empty()) {
    entry.sequence.clear();
    places_[static_cast<std::size_t>(entry.place)] = false;
  }
  entry.ended = true;
  entry.sink->on_end({reason, error, entry.place});
}

/// Kept prefixes together have at most half of all pages; those used longest ago are let go.
void Scheduler::keep_prefix(Entry& entry) {
  const auto pages = static_cast<std::size_t>(entry.keep_tokens / kPageTokens);
  entry.keep_tokens = 0;
  const auto is_same = [&](const exec::Sequence& kept) {
    return kept.pages().size() == pages && kept.pages().back() == entry.sequence.pages()[pages - 1];
  };
  if (pages == 0 || std::ranges::any_of(kept_, is_same)) return;
  kept_.push_front(entry.sequence.prefix(pages));
  const auto too_many = [&] {
    std::size_t sum = 0;
    for (const exec::Sequence& kept : kept_) sum += kept.pages().size();
    return 2 * sum > static_cast<std::size_t>(pool_.num_pages());
  };
  while (too_many()) kept_.pop_back();
}

/// Counts as a use of the kept prefixes that `sequence` begins with.
void Scheduler::touch_kept(const exec::Sequence& sequence) {
  for (auto kept = kept_.begin(); kept != kept_.end();) {
    const auto next = std::next(kept);
    const std::size_t pages = kept->pages().size();
    if (pages <= sequence.pages().size() && kept->pages().back() == sequence.pages()[pages - 1]) {
      kept_.splice(kept_.begin(), kept_, kept);
    }
    kept = next;
  }
}

}  // namespace kv8::runtime
