#include "runtime/prompt.h"

#include <algorithm>

namespace kv8::runtime {
namespace {

struct PromptText {
  std::string system, complete;
};

Result<PromptText> format_text(const Request& request,
                               const std::optional<text::ChatTemplate>& chat_template) {
  PromptText text;
  if (!request.apply_chat_template) {
    if (request.messages.front().role == "system") text.system = request.messages.front().content;
    for (const text::ChatMessage& message : request.messages) text.complete += message.content;
    return text;
  }
  if (!chat_template) {
    return not_found(
        "the engine folder has no processed_chat_template.json; set `apply_chat_template` to "
        "false, or write that file and put it there");
  }
  text.system = chat_template->format_system(request.messages);
  text.complete = KV8_TRY(chat_template->format(request.messages, request.add_generation_prompt,
                                                request.enable_thinking));
  return text;
}

std::vector<std::int32_t> tokenize(const text::Tokenizer& tokenizer, std::string_view text,
                                   std::int32_t bos) {
  std::vector<std::int32_t> ids = tokenizer.encode(text, true);
  const bool two_bos = ids.size() >= 2 && bos >= 0 && ids[0] == bos && ids[1] == bos;
  if (two_bos) ids.erase(ids.begin());
  return ids;
}

Status check_length(std::int64_t tokens, const PromptLimits& limits) {
  if (tokens == 0) return bad_input("the prompt is empty");
  if (tokens > limits.max_input_len) {
    return capacity_error(
        "the prompt has {} tokens, more than the engine's max_input_len of {}; shorten it or build "
        "the engine with a larger --maxInputLen",
        tokens, limits.max_input_len);
  }
  if (tokens > limits.sequence_tokens) {
    return capacity_error(
        "the prompt has {} tokens, but the KV cache holds {} of one sequence "
        "(max_kv_cache_capacity {}, all pages together {} tokens); shorten it or build the engine "
        "with a larger --maxKVCacheCapacity or --kvCacheMemory",
        tokens, limits.sequence_tokens, limits.max_kv_cache_capacity, limits.pool_tokens);
  }
  return {};
}

}  // namespace

Result<Prompt> prepare_prompt(const Request& request, const text::Tokenizer& tokenizer,
                              const std::optional<text::ChatTemplate>& chat_template,
                              const PromptLimits& limits) {
  if (request.messages.empty()) return bad_input("the prompt is empty");
  PromptText text = KV8_TRY(format_text(request, chat_template));
  Prompt prompt;
  prompt.ids = tokenize(tokenizer, text.complete, limits.bos_token_id);
  KV8_TRY(check_length(static_cast<std::int64_t>(prompt.ids.size()), limits));
  for (const std::int32_t id : prompt.ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return bad_input(
          "the tokenizer gives token {}, but the model's vocabulary has {}; tokenizer.json and "
          "engine do not belong together",
          id, limits.vocab_size);
    }
  }
  if (!text.system.empty()) {
    // The last token of the system text may merge with what follows it.
    const std::vector<std::int32_t> head = tokenize(tokenizer, text.system, limits.bos_token_id);
    const auto [differs, unused] = std::ranges::mismatch(prompt.ids, head);
    prompt.system_tokens = static_cast<std::int32_t>(differs - prompt.ids.begin());
  }
  prompt.system_text = std::move(text.system);
  prompt.complete_text = std::move(text.complete);
  return prompt;
}

Status check_logit_bias(const SamplingParams& sampling, std::int32_t vocab_size) {
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return bad_input("field `logit_bias` names token {}, but the model's vocabulary has {}", id,
                       vocab_size);
    }
  }
  return {};
}

}  // namespace kv8::runtime
