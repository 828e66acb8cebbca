#include "runtime/scheduler.h"

#include <algorithm>

#include "ops/kv_layout.h"

namespace kv8::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

TokenLogprob with_bytes(const ScoredToken& token, const text::Tokenizer& tokenizer) {
  return {token.id, tokenizer.token_bytes(token.id), static_cast<float>(token.logprob)};
}

LogprobEntry logprob_entry(const SampledToken& sampled, const text::Tokenizer& tokenizer) {
  LogprobEntry entry{with_bytes(sampled.chosen, tokenizer), {}};
  for (const ScoredToken& token : sampled.top) entry.top.push_back(with_bytes(token, tokenizer));
  return entry;
}

}  // namespace

Scheduler::Scheduler(const SchedulerContext& context, const RequestFile& file,
                     const Reporter& reporter)
    : context_(context), file_(file), reporter_(reporter), responses_(file.requests.size()) {
  const std::int32_t built = context.engine.config().builder.max_batch_size;
  batch_size_ = static_cast<std::size_t>(std::clamp(file.batch_size, 1, std::max(built, 1)));
  if (file.batch_size > built) {
    reporter.warn(
        fmt::format("batch_size {} is more than the engine's max_batch_size {}; {} "
                    "requests run at once",
                    file.batch_size, built, batch_size_));
  }
  warn_ineffective();
  for (std::size_t i = 0; i < responses_.size(); ++i) {
    responses_[i].request_idx = static_cast<std::int32_t>(i);
  }
}

void Scheduler::warn_ineffective() const {
  const bool can_think =
      context_.chat_template && !context_.chat_template->generation_prompt_no_think.empty();
  const bool wants_thinking = std::ranges::any_of(
      file_.requests, [](const Request& r) { return r.enable_thinking && r.apply_chat_template; });
  if (wants_thinking && context_.chat_template && !can_think) {
    reporter_.warn(
        "`enable_thinking` has no effect: the model's chat template has no thinking mode");
  }
}

std::vector<Response> Scheduler::run() {
  while (!interrupted()) {
    admit();
    if (active_.empty()) break;
    prefill_step();
    decode_step();
    active_.remove_if([](const Active& active) { return active.finished; });
  }
  for (Active& active : active_) finish(active, FinishReason::kCancelled);
  return std::move(responses_);
}

void Scheduler::prepare(std::size_t index) {
  const Request& request = file_.requests[index];
  candidate_.emplace(context_, request, responses_[index]);
  const auto start = Clock::now();
  const auto prepared = [&]() -> Result<Prompt> {
    if (request.error) return *request.error;
    KV8_TRY(check_logit_bias(request.sampling, context_.limits.vocab_size));
    return prepare_prompt(request, context_.tokenizer, context_.chat_template, context_.limits);
  }();
  context_.profile.stage_ms["tokenization"].push_back(ms_since(start));
  if (!prepared.ok()) {
    fail(*candidate_, prepared.error());
    candidate_.reset();
    return;
  }
  Active& active = *candidate_;
  active.prompt = *prepared;
  active.response->formatted_system_prompt = active.prompt.system_text;
  active.response->formatted_complete_request = active.prompt.complete_text;
  if (request.save_system_prompt_kv_cache && active.prompt.system_tokens == 0) {
    reporter_.warn(
        fmt::format("request {}: `save_system_prompt_kv_cache` has no effect: there is "
                    "no system prompt",
                    index));
  }
  const auto prompt_tokens = static_cast<std::int64_t>(active.prompt.ids.size());
  // The last token of an answer is never fed back, so it needs no place in the cache.
  const std::int64_t room = context_.limits.sequence_tokens() - prompt_tokens + 1;
  active.max_new = std::min<std::int64_t>(request.sampling.max_generate_length, room);
  active.reserved_pages = pages_for_tokens(prompt_tokens + active.max_new - 1);
}

void Scheduler::admit() {
  while (active_.size() < batch_size_) {
    while (!candidate_ && next_request_ < file_.requests.size()) prepare(next_request_++);
    if (!candidate_ || !make_room(candidate_->reserved_pages)) return;
    candidate_->response->batch_idx = free_slot();
    active_.push_back(std::move(*candidate_));
    candidate_.reset();
  }
}

/// Gives up kept system prompts, oldest use first, until `pages` can be promised.
bool Scheduler::make_room(std::int64_t pages) {
  while (unreserved_pages() < pages) {
    if (!context_.prefixes.evict()) {
      KV8_CHECK(!active_.empty(), "{} pages do not fit an empty pool of {}", pages,
                context_.pool.num_pages());
      return false;
    }
  }
  return true;
}

std::int64_t Scheduler::unreserved_pages() const {
  std::int64_t pages = context_.pool.num_free();
  for (const Active& active : active_) {
    pages -= active.reserved_pages - static_cast<std::int64_t>(active.sequence.pages().size());
  }
  return pages;
}

std::int32_t Scheduler::free_slot() const {
  std::int32_t slot = 0;
  const auto taken = [&](const Active& active) { return active.response->batch_idx == slot; };
  while (std::ranges::any_of(active_, taken)) ++slot;
  return slot;
}

/// One chunk of the first prompt that is not through.
void Scheduler::prefill_step() {
  const auto active = std::ranges::find_if(active_, [](const Active& a) { return a.prefilling(); });
  if (active == active_.end()) return;
  const Status status = prefill_chunk(*active);
  if (!status.ok()) fail(*active, status.error());
}

/// Looked for only now, when every earlier prompt is in the cache, so that what is reused does not
/// depend on the batch size.
Status Scheduler::start_prefill(Active& active) {
  active.started = true;
  ++context_.profile.prefill_runs;
  const exec::Sequence* kept = context_.prefixes.find(active.prompt.ids);
  if (kept == nullptr) return {};
  active.sequence = KV8_TRY(kept->fork(context_.backend));
  context_.profile.prefill_reused_tokens += active.sequence.length();
  return {};
}

Status Scheduler::prefill_chunk(Active& active) {
  if (!active.started) KV8_TRY(start_prefill(active));
  const auto done = active.sequence.length();
  const auto total = static_cast<std::int32_t>(active.prompt.ids.size());
  const std::int32_t system = active.prompt.system_tokens;
  const bool keep = active.request->save_system_prompt_kv_cache && done < system;
  // A kept prompt ends a chunk, so that requests that reuse it are cut at the same places.
  const std::int32_t count =
      std::min(context_.options.prefill_chunk, (keep ? system : total) - done);
  const bool last = done + count == total;

  exec::StepItem item;
  item.sequence = &active.sequence;
  item.tokens = std::span(active.prompt.ids)
                    .subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
  item.logits = last ? exec::StepItem::Logits::kLast : exec::StepItem::Logits::kNone;
  const auto start = Clock::now();
  KV8_TRY(exec::run_step(context_.engine, context_.backend, std::span(&item, 1)));
  const double ms = ms_since(start);
  context_.profile.stage_ms["prefill"].push_back(ms);
  context_.profile.prefill_ms += ms;
  context_.profile.prefill_tokens += count;

  if (keep && done + count == system) KV8_TRY(keep_system_prompt(active));
  if (!last) return {};
  Active* const sampled = &active;
  return sample(std::span(&sampled, 1));
}

Status Scheduler::keep_system_prompt(Active& active) {
  const auto ids = std::span<const std::int32_t>(active.prompt.ids)
                       .first(static_cast<std::size_t>(active.prompt.system_tokens));
  if (context_.prefixes.holds(ids)) return {};
  const std::int64_t copied_pages = active.prompt.system_tokens % kPageTokens == 0 ? 0 : 1;
  if (unreserved_pages() < copied_pages) {
    reporter_.warn(fmt::format("request {}: the KV cache is too full to keep the system prompt",
                               active.response->request_idx));
    return {};
  }
  context_.prefixes.add(ids, KV8_TRY(active.sequence.fork(context_.backend)));
  return {};
}

/// One token of every running request.
void Scheduler::decode_step() {
  std::vector<Active*> running;
  std::vector<exec::StepItem> items;
  for (Active& active : active_) {
    if (active.finished || active.prefilling()) continue;
    running.push_back(&active);
    items.push_back({&active.sequence, std::span<const std::int32_t>(&active.next_token, 1),
                     exec::StepItem::Logits::kLast});
  }
  if (running.empty()) return;
  const auto start = Clock::now();
  const Status status = exec::run_step(context_.engine, context_.backend, items);
  const Status sampled = status.ok() ? sample(running) : status;
  if (!sampled.ok()) {
    for (Active* active : running) fail(*active, sampled.error());
    return;
  }
  const double ms = ms_since(start);
  Profile& profile = context_.profile;
  profile.stage_ms["generation"].push_back(ms);
  profile.generation_ms += ms;
  profile.decode_tokens += static_cast<std::int64_t>(running.size());
  ++profile.decode_steps;
}

/// Draws the next token of each of `running`, whose logits the backend holds in this order.
Status Scheduler::sample(std::span<Active* const> running) {
  const auto start = Clock::now();
  std::vector<SampleRow> rows;
  for (const Active* active : running) rows.push_back(active->sample_row());
  std::vector<SampledToken> tokens(rows.size());
  KV8_TRY(context_.backend.sample(rows, tokens));
  context_.profile.stage_ms["sampling"].push_back(ms_since(start));
  for (std::size_t i = 0; i < running.size(); ++i) accept(*running[i], tokens[i]);
  return {};
}

SampleRow Scheduler::Active::sample_row() const {
  const SamplingParams& sampling = request->sampling;
  SampleRow row;
  row.temperature = sampling.temperature;
  row.top_p = sampling.top_p;
  row.top_k = sampling.top_k;
  row.seed = sampling.seed;
  row.step = response->output_ids.size();
  row.num_logprobs = sampling.num_logprobs;
  row.logit_bias = logit_bias;
  return row;
}

void Scheduler::accept(Active& active, const SampledToken& sampled) {
  if (const Status status = check_sampled(sampled); !status.ok()) {
    return fail(active, status.error());
  }
  Response& response = *active.response;
  const std::int32_t token = sampled.chosen.id;
  ++context_.profile.generated_tokens;
  const auto& ends = context_.engine.config().eos_token_ids;
  const bool is_end = std::ranges::find(ends, token) != ends.end();
  if (!is_end && active.request->sampling.num_logprobs > 0) {
    response.logprobs.push_back(logprob_entry(sampled, context_.tokenizer));
  }
  if (is_end) return finish(active, FinishReason::kEndOfSequence);

  active.next_token = token;
  response.output_ids.push_back(token);
  emit(active, active.stops.push(active.decoder.push(token)));
  if (active.stops.stopped()) return finish(active, FinishReason::kStopWords);
  if (static_cast<std::int64_t>(response.output_ids.size()) >= active.max_new) {
    finish(active, FinishReason::kMaxLength);
  }
}

void Scheduler::emit(Active& active, std::string_view text) {
  if (text.empty()) return;
  active.response->output_text += text;
  if (context_.options.stream) context_.options.stream(active.response->request_idx, text);
}

void Scheduler::finish(Active& active, FinishReason reason) {
  if (!active.stops.stopped()) {
    emit(active, active.stops.push(active.decoder.finish()));
    emit(active, active.stops.finish());
  }
  active.response->finish_reason = reason;
  active.sequence.clear();
  active.finished = true;
}

void Scheduler::fail(Active& active, const Error& error) {
  active.response->error = error;
  finish(active, FinishReason::kError);
}

}  // namespace kv8::runtime
