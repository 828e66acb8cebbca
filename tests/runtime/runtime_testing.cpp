#include "runtime/runtime_testing.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/fp8_checkpoint.h"

namespace kv8::runtime {

TinyModel::TinyModel(const std::string& name, bool fp8) : dir_(temp_ / "plain") {
  test::make_tiny_checkpoint(name, dir_);
  if (fp8) quantize();
}

TinyModel::TinyModel(const test::RandomModel& model, bool fp8) : dir_(temp_ / "plain") {
  test::make_random_checkpoint(model, dir_);
  if (fp8) quantize();
}

void TinyModel::quantize() {
  test::make_fp8_checkpoint(dir_, temp_ / "fp8", 4, 128);
  dir_ = temp_ / "fp8";
}

text::ChatTemplate tiny_chat_template() {
  text::ChatTemplate chat;
  const auto role = [](const char* name) {
    return text::RoleAffixes{std::string("<|im_start|>") + name + "\n", "<|im_end|>\n"};
  };
  chat.system = role("system");
  chat.user = role("user");
  chat.assistant = role("assistant");
  chat.generation_prompt = "<|im_start|>assistant\n";
  return chat;
}

std::unique_ptr<Runner> make_runner(const std::filesystem::path& checkpoint_dir,
                                    const RunnerSetup& setup) {
  RunnerParts parts{exec::Engine::from_checkpoint(checkpoint_dir, setup.fp8, setup.builder).value(),
                    nullptr, text::Tokenizer::load(checkpoint_dir).value(), tiny_chat_template()};
  const auto pages =
      exec::kv_pool_pages(parts.engine->config().builder, parts.engine->plan()).value();
  parts.backend =
      parts.engine->open_backend({.num_threads = 1, .num_pages = pages, .max_rows = setup.max_rows})
          .value();
  if (setup.wrap) parts.backend = setup.wrap(std::move(parts.backend));
  return Runner::create(std::move(parts), setup.options);
}

Request greedy_request(const std::string& user, std::int32_t length) {
  Request request = random_request(user, length, 0);
  request.sampling.temperature = 0.0f;
  return request;
}

Request random_request(const std::string& user, std::int32_t length, std::uint64_t seed) {
  Request request;
  request.messages = {{"user", user}};
  // The tiny models are sure of their next token; heat makes the answers differ.
  request.sampling.temperature = 6.0f;
  request.sampling.top_p = 0.95f;
  request.sampling.seed = seed;
  request.sampling.max_generate_length = length;
  request.sampling.logit_bias[kEndId] = -100.0f;
  return request;
}

void allow_only_letters(Request& request, std::int32_t vocab_size) {
  for (std::int32_t id = 0; id < vocab_size; ++id) {
    const std::int32_t byte = id - kFirstByteId;
    const bool letter = byte == ' ' || (byte >= 'a' && byte <= 'z');
    if (!letter) request.sampling.logit_bias[id] = -100.0f;
  }
}

RequestFile file_of(std::vector<Request> requests, std::int32_t batch_size) {
  RequestFile file;
  file.path = "test.json";
  file.batch_size = batch_size;
  file.requests = std::move(requests);
  return file;
}

void expect_answers(const std::vector<Response>& responses) {
  for (const Response& response : responses) {
    EXPECT_FALSE(response.error) << response.request_idx << ": " << response.error->message;
    EXPECT_NE(response.finish_reason, FinishReason::kNotFinished) << response.request_idx;
  }
}

Comparison compare_answers(const Response& response, const Response& other) {
  Comparison result;
  const auto [mine, theirs] = std::ranges::mismatch(response.output_ids, other.output_ids);
  result.tokens = mine - response.output_ids.begin();
  for (std::size_t i = 0; i < static_cast<std::size_t>(result.tokens); ++i) {
    result.largest_difference = std::max<double>(
        result.largest_difference,
        std::abs(response.logprobs[i].chosen.logprob - other.logprobs[i].chosen.logprob));
  }
  result.parted = mine != response.output_ids.end() && theirs != other.output_ids.end();
  if (!result.parted) return result;
  const LogprobEntry& entry = other.logprobs[static_cast<std::size_t>(result.tokens)];
  const auto chosen = std::ranges::find(entry.top, *mine, &TokenLogprob::token_id);
  result.gap = chosen == entry.top.end() ? std::numeric_limits<double>::infinity()
                                         : entry.chosen.logprob - chosen->logprob;
  return result;
}

}  // namespace kv8::runtime
