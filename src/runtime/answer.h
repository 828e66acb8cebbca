// The text side of one request: tokens in, text, stop strings and a response out.
#pragma once

#include "runtime/generate.h"
#include "runtime/prompt.h"
#include "runtime/stop_matcher.h"

namespace kv8::runtime {

/// A request from its submission to its response.
class Answer final : public TokenSink {
 public:
  Answer(std::int32_t request_idx, Request request, const text::Tokenizer& tokenizer,
         const StreamSink& stream);

  const Request& request() const { return request_; }
  std::int32_t request_idx() const { return response_.request_idx; }
  bool ended() const { return ended_; }
  /// Once ended.
  Response take_response() { return std::move(response_); }

  /// What the model is to go on from; the texts of `prompt` become part of the response.
  TokenRequest token_request(Prompt prompt);
  void fail(const Error& error);

  bool on_token(const SampledToken& token) override;
  void on_end(const Ending& ending) override;

 private:
  void emit(std::string_view text);

  Request request_;
  Response response_;
  const text::Tokenizer& tokenizer_;
  const StreamSink& stream_;
  text::StreamDecoder decoder_;
  StopMatcher stops_;
  bool ended_ = false;
};

}  // namespace kv8::runtime
