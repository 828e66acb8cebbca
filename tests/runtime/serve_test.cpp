#include "runtime/serve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "runtime/runtime_testing.h"
#include "support/pipe_test.h"

namespace kv8::runtime {
namespace {

using testing::HasSubstr;

/// Serves what `feed` writes; it is called with the writing end before anything is read and may
/// close it, and gets every response.
class Serve : public test::PipeTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(PipeTest::SetUp());
    RunnerSetup setup;
    setup.builder.max_batch_size = 2;
    setup.options.stream = [this](std::int32_t idx, std::string_view) {
      if (on_text) on_text(idx);
    };
    runner_ = make_runner(model_.dir(), setup);
  }
  Result<ServeResult> serve_all(const RequestOverrides& overrides = {}) {
    LineReader lines(pipe_[0], 2000);
    Reporter reporter;
    reporter.log = [this](LogLevel, std::string_view line) { warnings.emplace_back(line); };
    return serve(
        *runner_, lines, overrides,
        [this](std::string_view line) {
          responses.push_back(parse_json(line, "response").value());
          if (on_response) on_response(responses.back());
          return Status();
        },
        reporter);
  }
  /// The response with the id.
  const Json& by_id(const Json& id) {
    for (const Json& response : responses) {
      if (response.contains("id") && response["id"] == id) return response;
    }
    ADD_FAILURE() << "no response for " << id;
    return responses.front();
  }

  static std::string request(const std::string& id, const std::string& text, int length) {
    return fmt::format(
        R"({{"id": {}, "messages": [{{"role": "user", "content": "{}"}}], "temperature": 0, )"
        R"("max_generate_length": {}, "logit_bias": {{"2": -100}}}})"
        "\n",
        id, text, length);
  }

  TinyModel model_{"qwen3"};
  std::unique_ptr<Runner> runner_;
  std::vector<Json> responses;
  std::vector<std::string> warnings;
  std::function<void(std::int32_t)> on_text;
  std::function<void(const Json&)> on_response;
};

TEST_F(Serve, OneLineOfResponseForEachRequest) {
  write(request("\"a\"", "one", 30) + "\n  \r\n" + request("7", "two", 3) +
        R"({"messages": [{"role": "user", "content": "no id"}], "max_generate_length": 2})");
  end();
  const auto result = serve_all().value();
  EXPECT_EQ(result.num_requests, 3);
  EXPECT_EQ(result.num_failed, 0);
  ASSERT_EQ(responses.size(), 3u);
  EXPECT_EQ(responses[0].begin().key(), "id");
  EXPECT_EQ(by_id("a")["request_idx"], 0);
  EXPECT_EQ(by_id("a")["finish_reason"], "max-length");
  EXPECT_EQ(by_id(7)["request_idx"], 1);
  EXPECT_EQ(by_id("a")["messages"][0]["content"], "one");
  // The short ones are through before the long one.
  EXPECT_EQ(responses[2]["id"], "a");
  EXPECT_FALSE(responses[1].contains("id"));
  const auto alone = runner_->run(file_of({greedy_request("one", 30)}), {});
  EXPECT_EQ(by_id("a")["output_text"], alone[0].output_text);
}

TEST_F(Serve, ADialogueOverThePipe) {
  write(request("1", "first", 4));
  on_response = [&](const Json& response) {
    if (response["id"] == 3) return end();
    const int next = response["id"].get<int>() + 1;
    write(request(std::to_string(next), "again", 4));
  };
  EXPECT_EQ(serve_all().value().num_requests, 3);
}

TEST_F(Serve, CancelsById) {
  write(request("\"long\"", "one", 4000) + request("\"other\"", "two", 4000) +
        request("\"waits\"", "three", 4000));
  int pieces = 0;
  on_text = [&](std::int32_t) {
    if (++pieces == 20) {
      write(R"({"cancel": "waits"})"
            "\n"
            R"({"cancel": "unknown"})"
            "\n"
            R"({"cancel": "long"})"
            "\n"
            R"({"cancel": "other"})"
            "\n");
      end();
    }
  };
  const auto result = serve_all().value();
  EXPECT_EQ(result.num_requests, 3);
  EXPECT_EQ(result.num_failed, 0);
  ASSERT_EQ(responses.size(), 3u);
  EXPECT_EQ(by_id("waits")["finish_reason"], "not-finished");
  EXPECT_EQ(by_id("long")["finish_reason"], "cancelled");
  EXPECT_EQ(by_id("other")["finish_reason"], "cancelled");
}

TEST_F(Serve, BrokenLinesAreFailedRequests) {
  write("{\"messages\": [}\n" + request("1", "good", 2) + "[1]\n" +
        R"({"id": [2], "messages": [{"role": "user", "content": "x"}]})"
        "\n"
        R"({"id": "n", "messages": 5})"
        "\n" +
        std::string(3000, 'x') + "\n" + request("1", "the id is taken", 2) +
        R"({"cancel": 1.5})"
        "\n");
  end();
  const auto result = serve_all().value();
  EXPECT_EQ(result.num_requests, 8);
  EXPECT_EQ(result.num_failed, 7);
  ASSERT_EQ(responses.size(), 8u);
  std::vector<std::string> errors(8);
  for (const Json& response : responses) {
    const auto idx = response["request_idx"].get<std::size_t>();
    if (response.contains("error")) errors[idx] = response["error"]["message"].get<std::string>();
  }
  EXPECT_THAT(errors[0], HasSubstr("request 0: line 1, column 15"));
  EXPECT_EQ(errors[1], "");
  EXPECT_THAT(errors[2], HasSubstr("request 2"));
  EXPECT_THAT(errors[3], HasSubstr("`id` is array"));
  EXPECT_THAT(errors[4], HasSubstr("`messages`"));
  EXPECT_THAT(errors[5], HasSubstr("longer than"));
  EXPECT_THAT(errors[6], HasSubstr("id 1 has no response yet"));
  EXPECT_THAT(errors[7], HasSubstr("`cancel` is number"));
  EXPECT_EQ(by_id("n")["finish_reason"], "error");
}

TEST_F(Serve, FlagsWinAndUnknownFieldsAreWarnedOfOnce) {
  for (int i = 0; i < 3; ++i) {
    write(R"({"messages": [{"role": "user", "content": "x"}], "tempreature": 1, )"
          R"("max_generate_length": 50, "logit_bias": {"2": -100}})"
          "\n");
  }
  end();
  RequestOverrides overrides;
  overrides.max_generate_length = 3;
  overrides.num_logprobs = 1;
  serve_all(overrides).value();
  for (const Json& response : responses) EXPECT_EQ(response["logprobs"].size(), 3u);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0], HasSubstr("tempreature"));
}

TEST_F(Serve, AnInterruptAnswersEveryRequest) {
  for (int i = 0; i < 5; ++i) write(request(std::to_string(i), "go on", 4000));
  int pieces = 0;
  on_text = [&](std::int32_t) {
    if (++pieces == 10) set_interrupted(true);
  };
  const auto result = serve_all();  // although the input has not ended
  set_interrupted(false);
  EXPECT_EQ(result.value().num_requests, 5);
  ASSERT_EQ(responses.size(), 5u);
  EXPECT_EQ(by_id(0)["finish_reason"], "cancelled");
  EXPECT_EQ(by_id(4)["finish_reason"], "not-finished");
}

TEST_F(Serve, AFailingSinkEndsIt) {
  write(request("1", "x", 2));
  LineReader lines(pipe_[0], 2000);
  const auto result =
      serve(*runner_, lines, {},
            [](std::string_view) -> Status { return io_error("no more paper"); }, {});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "no more paper");
}

}  // namespace
}  // namespace kv8::runtime
