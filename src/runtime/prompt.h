// A request's messages as the text and the tokens that the model is fed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace kv8::runtime {

/// What a sequence of this engine may hold, in tokens.
struct PromptLimits {
  std::int64_t max_input_len = 0;
  std::int64_t max_kv_cache_capacity = 0;  ///< of one sequence, as built
  std::int64_t pool_tokens = 0;            ///< all KV pages together
  std::int64_t sequence_tokens = 0;        ///< that one sequence can have in the cache
  std::int32_t vocab_size = 0;
  std::int32_t bos_token_id = -1;
};

struct Prompt {
  std::string system_text, complete_text;
  std::vector<std::int32_t> ids;
  /// Leading ids that the system message alone makes: what may be kept for later requests.
  std::int32_t system_tokens = 0;
};

/// Formats and tokenizes. Special tokens are added as the tokenizer's post-processor says, except a
/// BOS that the formatted text begins with already. Without the chat template the contents are
/// joined as they are. Errors: no template where one is asked for, an empty prompt, a token outside
/// the vocabulary, a prompt longer than the limits.
Result<Prompt> prepare_prompt(const Request& request, const text::Tokenizer& tokenizer,
                              const std::optional<text::ChatTemplate>& chat_template,
                              const PromptLimits& limits);

/// kBadInput if logit_bias names a token outside the vocabulary.
Status check_logit_bias(const SamplingParams& sampling, std::int32_t vocab_size);

}  // namespace kv8::runtime
