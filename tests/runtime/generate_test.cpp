#include "runtime/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "exec/sequence.h"
#include "runtime/runtime_testing.h"

namespace kv8::runtime {
namespace {

using testing::HasSubstr;

/// Prompts of many lengths, past a page of 64 tokens, some greedy and some random.
std::vector<Request> mixed_requests() {
  std::vector<Request> requests;
  for (int i = 0; i < 7; ++i) {
    const std::string text(static_cast<std::size_t>(3 + 29 * i), static_cast<char>('a' + i));
    const std::int32_t length = 5 + (i * 11) % 40;
    requests.push_back(i % 2 == 0 ? random_request(text, length, 100 + i)
                                  : greedy_request(text, length));
  }
  return requests;
}

/// Greedy decoding as the definition says: every token through the model alone, then the argmax.
std::vector<std::int32_t> argmax_by_steps(const std::filesystem::path& dir,
                                          std::vector<std::int32_t> ids, int count) {
  const auto engine = exec::Engine::from_checkpoint(dir, false, {}).value();
  const auto backend =
      engine->open_backend({.num_threads = 1, .num_pages = 8, .max_rows = 1}).value();
  exec::KvPool pool(8);
  exec::Sequence sequence(pool);
  std::vector<float> logits;
  std::vector<std::int32_t> output;
  for (std::size_t i = 0; static_cast<int>(output.size()) < count; ++i) {
    exec::StepItem item{&sequence, std::span(ids).subspan(i, 1), exec::StepItem::Logits::kLast};
    exec::run_step(*engine, *backend, std::span(&item, 1), logits).value();
    if (i + 1 < ids.size()) continue;
    logits[kEndId] -= 100.0f;
    ids.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    output.push_back(ids.back());
  }
  return output;
}

class GenerateModels : public testing::TestWithParam<std::string> {};

TEST_P(GenerateModels, GreedyIsTheArgmaxOfEveryStep) {
  const TinyModel model(GetParam());
  RunnerSetup setup;
  setup.builder.max_kv_cache_capacity = 256;
  const auto runner = make_runner(model.dir(), setup);
  for (const std::string prompt : {"What is a page of a cache?", "7", "naive \xC3\xA9\n\n"}) {
    Request request = greedy_request(prompt, 24);
    request.apply_chat_template = false;
    const auto responses = runner->run(file_of({request}), {});
    expect_answers(responses);
    const std::vector<std::int32_t> ids = runner->tokenizer().encode(prompt, true);
    EXPECT_EQ(responses[0].output_ids, argmax_by_steps(model.dir(), ids, 24));
    EXPECT_EQ(responses[0].finish_reason, FinishReason::kMaxLength);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GenerateModels,
                         testing::Values("llama3", "mistral", "qwen2", "qwen3", "llama2_linear"));

class GenerateCaches : public testing::TestWithParam<bool> {};

TEST_P(GenerateCaches, AnswersDoNotDependOnTheBatchSize) {
  const TinyModel model("llama3", GetParam());
  RunnerSetup setup;
  setup.fp8 = GetParam();
  setup.builder.max_kv_cache_capacity = 512;
  setup.builder.max_batch_size = 8;
  const auto alone = make_runner(model.dir(), setup)->run(file_of(mixed_requests(), 1), {});
  expect_answers(alone);
  for (const int batch_size : {2, 3, 8}) {
    const auto together =
        make_runner(model.dir(), setup)->run(file_of(mixed_requests(), batch_size), {});
    expect_answers(together);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(together[i].output_ids, alone[i].output_ids) << i << " of " << batch_size;
      EXPECT_EQ(together[i].output_text, alone[i].output_text);
      EXPECT_EQ(together[i].request_idx, static_cast<std::int32_t>(i));
      EXPECT_LT(together[i].batch_idx, batch_size);
    }
  }
}

TEST_P(GenerateCaches, AKeptSystemPromptGivesTheSameText) {
  const TinyModel model("llama3", GetParam());
  RunnerSetup setup;
  setup.fp8 = GetParam();
  setup.builder.max_kv_cache_capacity = 512;
  const std::string system(150, 's');
  const auto with_system = [&](const std::string& user, bool keep) {
    Request request = random_request(user, 40, 5);
    request.messages.insert(request.messages.begin(), {"system", system});
    request.save_system_prompt_kv_cache = keep;
    return request;
  };
  const auto fresh = make_runner(model.dir(), setup)->run(file_of({with_system("two", true)}), {});
  expect_answers(fresh);

  for (const int batch_size : {1, 3}) {
    const auto runner = make_runner(model.dir(), setup);
    const auto responses = runner->run(
        file_of({with_system("one", true), with_system("two", false), with_system("two", true)},
                batch_size),
        {});
    expect_answers(responses);
    EXPECT_EQ(responses[1].output_ids, fresh[0].output_ids);
    EXPECT_EQ(responses[2].output_ids, fresh[0].output_ids);
    EXPECT_NE(responses[0].output_ids, fresh[0].output_ids);
    EXPECT_EQ(responses[1].formatted_system_prompt,
              "<|im_start|>system\n" + system + "<|im_end|>\n");
    // Whole pages of the system prompt, which has over 150 tokens.
    EXPECT_EQ(runner->profile().reused_tokens, 2 * 2 * kPageTokens);
    // It outlives the file that asked for it, and much that comes after.
    for (int i = 0; i < 12; ++i)
      runner->run(file_of({greedy_request(std::string(400, 'a' + i), 90)}), {});
    const std::int64_t before = runner->profile().reused_tokens;
    const auto later = runner->run(file_of({with_system("two", false)}), {});
    EXPECT_EQ(later[0].output_ids, fresh[0].output_ids);
    EXPECT_EQ(runner->profile().reused_tokens - before, 2 * kPageTokens);
  }
}

TEST_P(GenerateCaches, RepeatedPromptsAndConversationsReuseThePages) {
  const TinyModel model("llama3", GetParam());
  RunnerSetup setup;
  setup.fp8 = GetParam();
  setup.builder.max_kv_cache_capacity = 512;
  Request first = greedy_request(std::string(150, 'q'), 80);
  allow_only_letters(first, 320);
  const auto fresh = make_runner(model.dir(), setup)->run(file_of({first}), {});
  expect_answers(fresh);
  Request second = first;
  second.messages.push_back({"assistant", fresh[0].output_text});
  second.messages.push_back({"user", "and then?"});
  const auto fresh_second = make_runner(model.dir(), setup)->run(file_of({second}), {});

  const auto runner = make_runner(model.dir(), setup);
  const auto responses = runner->run(file_of({first, first, second}), {});
  expect_answers(responses);
  EXPECT_EQ(responses[0].output_ids, fresh[0].output_ids);
  EXPECT_EQ(responses[1].output_ids, fresh[0].output_ids);
  EXPECT_EQ(responses[2].output_ids, fresh_second[0].output_ids);
  // Pages of the prompt, then of the prompt and the answer, which is fed back as it was generated.
  EXPECT_EQ(runner->profile().reused_tokens, 2 * kPageTokens + 3 * kPageTokens);
}

INSTANTIATE_TEST_SUITE_P(KvCache, GenerateCaches, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "fp8" : "fp16"; });

TEST(Generate, PromptChunksDoNotChangeTheAnswer) {
  const TinyModel model("llama3");
  RunnerSetup setup;
  setup.builder.max_kv_cache_capacity = 512;
  const Request request = greedy_request(std::string(200, 'x') + "?", 16);
  const auto whole = make_runner(model.dir(), setup)->run(file_of({request}), {});
  setup.options.prefill_chunk = 7;
  const auto chunked = make_runner(model.dir(), setup)->run(file_of({request}), {});
  expect_answers(chunked);
  EXPECT_EQ(chunked[0].output_ids, whole[0].output_ids);
}

TEST(Generate, SeedsDecide) {
  const TinyModel model("qwen3");
  const auto runner = make_runner(model.dir());
  const auto responses =
      runner->run(file_of({random_request("hello", 30, 1), random_request("hello", 30, 1),
                           random_request("hello", 30, 2)}),
                  {});
  expect_answers(responses);
  EXPECT_EQ(responses[0].output_ids, responses[1].output_ids);
  EXPECT_NE(responses[0].output_ids, responses[2].output_ids);
}

TEST(Generate, LogitBiasBansAndForces) {
  const TinyModel model("qwen3");
  const auto runner = make_runner(model.dir());
  Request letters = random_request("write", 60, 3);
  letters.sampling.temperature = 5.0f;
  letters.sampling.top_k = 0;
  letters.sampling.top_p = 1.0f;
  allow_only_letters(letters, runner->engine().config().vocab_size);
  Request ends = random_request("write", 60, 3);
  ends.sampling.logit_bias = {{kEndId, 100.0f}};
  const auto responses = runner->run(file_of({letters, ends}), {});
  expect_answers(responses);
  EXPECT_EQ(responses[0].output_text.size(), 60u);
  EXPECT_EQ(responses[0].output_text.find_first_not_of("abcdefghijklmnopqrstuvwxyz "),
            std::string::npos);
  EXPECT_EQ(responses[1].output_text, "");
  EXPECT_TRUE(responses[1].output_ids.empty());
  EXPECT_EQ(responses[1].finish_reason, FinishReason::kEndOfSequence);
}

TEST(Generate, StopStringsSpanTokensAndNeverShow) {
  const TinyModel model("qwen3");
  std::string streamed;
  RunnerSetup setup;
  setup.options.stream = [&](std::int32_t, std::string_view text) { streamed += text; };
  const auto runner = make_runner(model.dir(), setup);
  Request request = random_request("write", 80, 11);
  allow_only_letters(request, runner->engine().config().vocab_size);
  const std::string whole = runner->run(file_of({request}), {})[0].output_text;
  ASSERT_EQ(whole.size(), 80u);
  EXPECT_EQ(streamed, whole);

  // One byte a token: a stop of five letters spans five tokens.
  const std::string stop = whole.substr(40, 5);
  const std::string expected = whole.substr(0, whole.find(stop));
  request.sampling.stop = {"never to be seen", stop};
  streamed.clear();
  const auto responses = runner->run(file_of({request}), {});
  expect_answers(responses);
  EXPECT_EQ(responses[0].output_text, expected);
  EXPECT_EQ(streamed, expected);
  EXPECT_EQ(responses[0].finish_reason, FinishReason::kStopWords);
  EXPECT_EQ(responses[0].output_ids.size(), expected.size() + stop.size());
}

TEST(Generate, OneBadRequestLeavesTheOthersAnswered) {
  const TinyModel model("qwen3");
  RunnerSetup setup;
  setup.builder.max_input_len = 100;
  setup.builder.max_kv_cache_capacity = 64;
  const auto runner = make_runner(model.dir(), setup);
  Request good = greedy_request("fine", 8), broken = good, too_long = good, too_big = good,
          bad_bias = good, bad_order = good, empty = good;
  broken.error = bad_input("requests[1]: broken");
  too_long.messages[0].content = std::string(200, 'a');
  too_big.messages[0].content = std::string(75, 'a');
  too_big.apply_chat_template = false;
  bad_bias.sampling.logit_bias[5000] = 1.0f;
  bad_order.messages.push_back({"system", "late"});
  empty.messages[0].content = "";
  empty.apply_chat_template = false;
  const auto responses = runner->run(
      file_of({good, broken, too_long, too_big, bad_bias, bad_order, empty, good}, 2), {});
  ASSERT_EQ(responses.size(), 8u);
  for (std::size_t i = 1; i < 7; ++i) {
    ASSERT_TRUE(responses[i].error) << i;
    EXPECT_EQ(responses[i].finish_reason, FinishReason::kError);
    EXPECT_EQ(responses[i].output_text, "");
  }
  EXPECT_FALSE(responses[0].error);
  EXPECT_EQ(responses[0].output_ids.size(), 8u);
  EXPECT_EQ(responses[7].output_ids, responses[0].output_ids);
  EXPECT_EQ(responses[1].error->message, "requests[1]: broken");
  EXPECT_THAT(responses[2].error->message, HasSubstr("max_input_len of 100"));
  EXPECT_EQ(responses[2].error->code, ErrorCode::kCapacity);
  EXPECT_THAT(responses[3].error->message, HasSubstr("the prompt has 75 tokens"));
  EXPECT_THAT(responses[3].error->message, HasSubstr("holds 64"));
  EXPECT_THAT(responses[4].error->message, HasSubstr("token 5000"));
  EXPECT_THAT(responses[6].error->message, HasSubstr("empty"));
}

TEST(Generate, StopsWhereTheCapacityEnds) {
  const TinyModel model("qwen3");
  RunnerSetup setup;
  setup.builder.max_kv_cache_capacity = setup.builder.max_input_len = 80;
  const auto runner = make_runner(model.dir(), setup);
  Request request = greedy_request(std::string(50, 'a'), 1000);
  request.apply_chat_template = false;
  const auto responses = runner->run(file_of({request}), {});
  expect_answers(responses);
  EXPECT_EQ(responses[0].finish_reason, FinishReason::kMaxLength);
  EXPECT_EQ(responses[0].output_ids.size(), 31u);
}

TEST(Generate, AFullPoolMakesRequestsWaitNotFail) {
  const TinyModel model("qwen3");
  RunnerSetup roomy, tight;
  roomy.builder.max_batch_size = tight.builder.max_batch_size = 8;
  roomy.builder.max_kv_cache_capacity = tight.builder.max_kv_cache_capacity = 256;
  roomy.builder.max_input_len = tight.builder.max_input_len = 256;
  const auto wide = make_runner(model.dir(), roomy);
  tight.builder.kv_cache_memory = 4 * kPageTokens * wide->profile().kv_bytes_per_token + 100;
  const auto narrow = make_runner(model.dir(), tight);
  EXPECT_EQ(narrow->profile().kv_capacity_tokens, 4 * kPageTokens);
  std::vector<Request> requests = mixed_requests();
  for (Request& request : requests) {
    request.messages.insert(request.messages.begin(),
                            {"system", request.messages[0].content.substr(0, 3)});
    request.save_system_prompt_kv_cache = true;  // kept ones must make way
    request.messages[1].content.resize(
        std::min<std::size_t>(request.messages[1].content.size(), 90));
  }
  const auto expected = wide->run(file_of(requests, 8), {});
  const auto responses = narrow->run(file_of(requests, 8), {});
  expect_answers(responses);
  for (std::size_t i = 0; i < responses.size(); ++i) {
    EXPECT_EQ(responses[i].output_ids, expected[i].output_ids) << i;
  }
  Request biggest = greedy_request(std::string(100, 'z'), 1000);
  biggest.apply_chat_template = false;
  const auto all_pages = narrow->run(file_of({biggest}), {});
  expect_answers(all_pages);
  EXPECT_EQ(all_pages[0].output_ids.size(), 157u);
}

TEST(Generate, AnInterruptKeepsWhatThereIs) {
  const TinyModel model("qwen3");
  RunnerSetup setup;
  int pieces = 0;
  setup.options.stream = [&](std::int32_t, std::string_view) {
    if (++pieces == 5) set_interrupted(true);
  };
  const auto runner = make_runner(model.dir(), setup);
  Request request = greedy_request("go on", 200);
  allow_only_letters(request, runner->engine().config().vocab_size);
  const auto responses = runner->run(file_of({request, request}), {});
  set_interrupted(false);
  EXPECT_EQ(responses[0].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(responses[0].output_text.size(), 5u);
  EXPECT_EQ(responses[1].finish_reason, FinishReason::kNotFinished);
}

TEST(Generate, RequestsComeAndGoOneByOne) {
  const TinyModel model("qwen3");
  RunnerSetup setup;
  setup.builder.max_batch_size = 2;
  const auto runner = make_runner(model.dir(), setup);
  const auto alone = runner->run(file_of({greedy_request("go on", 30)}), {});
  runner->begin(0, {});
  EXPECT_EQ(runner->submit(greedy_request("go on", 30)), 0);
  EXPECT_EQ(runner->submit(greedy_request("for ever", 1000)), 1);
  EXPECT_EQ(runner->submit(greedy_request("never begun", 1000)), 2);
  std::vector<Response> responses;
  while (responses.empty()) responses = runner->step();
  EXPECT_EQ(responses[0].request_idx, 0);
  EXPECT_EQ(responses[0].output_ids, alone[0].output_ids);
  EXPECT_EQ(runner->num_unfinished(), 2u);
  EXPECT_EQ(runner->submit(greedy_request("go on", 3)), 3);
  EXPECT_EQ(runner->submit(greedy_request("cancelled at once", 3)), 4);
  runner->cancel(4);
  responses = runner->step();
  ASSERT_EQ(responses.size(), 1u);
  EXPECT_EQ(responses[0].finish_reason, FinishReason::kNotFinished);
  runner->cancel(1);
  responses = runner->step();
  ASSERT_EQ(responses.size(), 1u);
  EXPECT_EQ(responses[0].request_idx, 1);
  EXPECT_EQ(responses[0].finish_reason, FinishReason::kCancelled);
  EXPECT_GT(responses[0].output_ids.size(), 25u);
  runner->cancel_all();
  EXPECT_EQ(runner->step().size(), 2u);
  EXPECT_EQ(runner->num_unfinished(), 0u);
  EXPECT_TRUE(runner->step().empty());
}

TEST(Generate, LogprobsAreThoseOfTheModel) {
  const TinyModel model("qwen3");
  const auto runner = make_runner(model.dir());
  Request request = greedy_request("tell", 12);
  request.sampling.num_logprobs = 4;
  allow_only_letters(request, runner->engine().config().vocab_size);
  const auto responses = runner->run(file_of({request}), {});
  expect_answers(responses);
  ASSERT_EQ(responses[0].logprobs.size(), responses[0].output_ids.size());
  double above_chosen = 0.0;
  for (std::size_t i = 0; i < responses[0].logprobs.size(); ++i) {
    const LogprobEntry& entry = responses[0].logprobs[i];
    EXPECT_EQ(entry.chosen.token_id, responses[0].output_ids[i]);
    EXPECT_EQ(entry.chosen.bytes, std::string(1, responses[0].output_text[i]));
    ASSERT_EQ(entry.top.size(), 4u);
    for (std::size_t j = 1; j < 4; ++j) EXPECT_GE(entry.top[j - 1].logprob, entry.top[j].logprob);
    EXPECT_LE(entry.top[0].logprob, 0.0f);
    above_chosen += entry.top[0].logprob > entry.chosen.logprob;
  }
  // The bias bans most tokens from being chosen, and the log-probabilities know nothing of it.
  EXPECT_GT(above_chosen, 0);
}

/// A backend whose logits are NaN from a certain call on.
class BreakingBackend : public Backend {
 public:
  BreakingBackend(std::unique_ptr<Backend> inner, std::int32_t vocab_size, int good_calls)
      : inner_(std::move(inner)),
        logits_per_row_(static_cast<std::size_t>(vocab_size)),
        good_calls_(good_calls) {}
  Status run(const Batch& batch, TapSink* taps) override {
    KV8_TRY(inner_->run(batch, taps));
    logits_.resize(batch.logits_rows.size() * logits_per_row_);
    KV8_TRY(inner_->read_logits(logits_));
    if (good_calls_-- <= 0 && !logits_.empty()) logits_[3] = std::nanf("");
    return {};
  }
  Status read_logits(std::span<float> logits) override { return inner_->read_logits(logits); }
  Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) override {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      tokens[i] = sample_row(
          std::span<const float>(logits_).subspan(i * logits_per_row_, logits_per_row_), rows[i]);
    }
    return {};
  }
  Status copy_page(std::int32_t from, std::int32_t to) override {
    return inner_->copy_page(from, to);
  }
  std::int64_t max_rows() const override { return inner_->max_rows(); }
  std::int32_t num_pages() const override { return inner_->num_pages(); }
  std::string_view name() const override { return inner_->name(); }

 private:
  std::unique_ptr<Backend> inner_;
  std::size_t logits_per_row_;
  int good_calls_;
  std::vector<float> logits_;
};

TEST(Generate, NanLogitsAreAnErrorNotAToken) {
  const TinyModel model("qwen3");
  RunnerSetup setup;
  const std::int32_t vocab =
      exec::Engine::from_checkpoint(model.dir(), false, {}).value()->plan().vocab_size;
  setup.wrap = [vocab](std::unique_ptr<Backend> backend) {
    return std::make_unique<BreakingBackend>(std::move(backend), vocab, 3);
  };
  const auto runner = make_runner(model.dir(), setup);
  const auto responses = runner->run(file_of({greedy_request("x", 20)}), {});
  ASSERT_TRUE(responses[0].error);
  EXPECT_THAT(responses[0].error->message, HasSubstr("nan"));
  EXPECT_EQ(responses[0].output_ids.size(), 3u);
}

TEST(Generate, WarnsOfWhatHasNoEffect) {
  const TinyModel model("qwen3");
  const auto runner = make_runner(model.dir());
  Request request = greedy_request("x", 2);
  request.enable_thinking = true;
  request.save_system_prompt_kv_cache = true;
  std::vector<std::string> warnings;
  Reporter reporter;
  reporter.log = [&](LogLevel, std::string_view line) { warnings.emplace_back(line); };
  expect_answers(runner->run(file_of({request}, 100), reporter));
  EXPECT_THAT(warnings, testing::UnorderedElementsAre(HasSubstr("max_batch_size"),
                                                      HasSubstr("enable_thinking"),
                                                      HasSubstr("the system prompt has 0 tokens")));
}

}  // namespace
}  // namespace kv8::runtime
