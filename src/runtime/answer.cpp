#include "runtime/answer.h"

#include <utility>

namespace kv8::runtime {
namespace {

TokenLogprob with_bytes(const ScoredToken& token, const text::Tokenizer& tokenizer) {
  return {token.id, tokenizer.token_bytes(token.id), static_cast<float>(token.logprob)};
}

LogprobEntry logprob_entry(const SampledToken& sampled, const text::Tokenizer& tokenizer) {
  LogprobEntry entry{with_bytes(sampled.chosen, tokenizer), {}};
  for (const ScoredToken& token : sampled.top) entry.top.push_back(with_bytes(token, tokenizer));
  return entry;
}

}  // namespace

Answer::Answer(std::int32_t request_idx, Request request, const text::Tokenizer& tokenizer,
               const StreamSink& stream)
    : request_(std::move(request)),
      tokenizer_(tokenizer),
      stream_(stream),
      decoder_(tokenizer),
      stops_(request_.sampling.stop) {
  response_.request_idx = request_idx;
}

TokenRequest Answer::token_request(Prompt prompt) {
  response_.formatted_system_prompt = std::move(prompt.system_text);
  response_.formatted_complete_request = std::move(prompt.complete_text);
  const SamplingParams& params = request_.sampling;
  TokenRequest tokens;
  tokens.prompt = std::move(prompt.ids);
  tokens.sampling.temperature = params.temperature;
  tokens.sampling.top_p = params.top_p;
  tokens.sampling.top_k = params.top_k;
  tokens.sampling.seed = params.seed;
  tokens.sampling.num_logprobs = params.num_logprobs;
  for (const auto& [id, bias] : params.logit_bias) tokens.logit_bias.push_back({id, bias});
  tokens.max_new_tokens = params.max_generate_length;
  if (request_.save_system_prompt_kv_cache) tokens.keep_tokens = prompt.system_tokens;
  return tokens;
}

void Answer::fail(const Error& error) { on_end({FinishReason::kError, &error, 0}); }

bool Answer::on_token(const SampledToken& token) {
  if (request_.sampling.num_logprobs > 0) {
    response_.logprobs.push_back(logprob_entry(token, tokenizer_));
  }
  response_.output_ids.push_back(token.chosen.id);
  emit(stops_.push(decoder_.push(token.chosen.id)));
  return !stops_.stopped();
}

void Answer::on_end(const Ending& ending) {
  if (!stops_.stopped()) {
    emit(stops_.push(decoder_.finish()));
    emit(stops_.finish());
  }
  response_.finish_reason = ending.reason;
  response_.batch_idx = ending.batch_place;
  if (ending.error != nullptr) response_.error = *ending.error;
  ended_ = true;
}

void Answer::emit(std::string_view text) {
  if (text.empty()) return;
  response_.output_text += text;
  if (stream_) stream_(response_.request_idx, text);
}

}  // namespace kv8::runtime
