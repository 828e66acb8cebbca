#include "runtime/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kv8::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Parsed {
  Result<RequestFile> file;
  std::vector<std::string> warnings;
};

Parsed parse(std::string_view text, const RequestOverrides& overrides = {}) {
  std::vector<std::string> warnings;
  Reporter reporter;
  reporter.log = [&](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning) warnings.emplace_back(line);
  };
  Result<RequestFile> file = parse_request_file(text, "in.json", overrides, reporter);
  return {std::move(file), std::move(warnings)};
}

/// The error of a request that has the given fields beside a valid message.
std::string request_error(const std::string& fields) {
  const Parsed parsed =
      parse(R"({"requests": [{"messages": [{"role": "user", "content": "x"}], )" + fields + "}]}");
  if (!parsed.file.ok()) return "file: " + parsed.file.error().message;
  const auto& error = parsed.file->requests.at(0).error;
  return error ? error->message : "";
}

TEST(RequestFile, DefaultsAreTheContracts) {
  const Parsed parsed =
      parse(R"({"requests": [{"messages": [{"role": "user", "content": "hi"}]}]})");
  ASSERT_TRUE(parsed.file.ok()) << parsed.file.error().message;
  EXPECT_EQ(parsed.file->batch_size, 1);
  const Request& request = parsed.file->requests.at(0);
  EXPECT_FALSE(request.error);
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.top_p, 0.8f);
  EXPECT_EQ(request.sampling.top_k, 50);
  EXPECT_EQ(request.sampling.max_generate_length, 256);
  EXPECT_EQ(request.sampling.num_logprobs, 0);
  EXPECT_TRUE(request.apply_chat_template);
  EXPECT_TRUE(request.add_generation_prompt);
  EXPECT_FALSE(request.enable_thinking);
  EXPECT_FALSE(request.save_system_prompt_kv_cache);
  EXPECT_TRUE(parsed.warnings.empty());
}

TEST(RequestFile, RequestFieldsWinOverTheFiles) {
  const Parsed parsed = parse(R"({
    "batch_size": 3, "temperature": 0.5, "top_k": 7, "seed": 40, "logit_bias": {"5": -100},
    "requests": [
      {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                 {"type": "text", "text": "b"}]}],
       "stop": "END", "temperature": 0, "disable_spec_decode": true},
      {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}],
       "stop": ["x", "y"], "seed": 9, "logit_bias": {"6": 2.5}, "num_logprobs": 50,
       "save_system_prompt_kv_cache": true, "max_generate_length": 1}
    ]})");
  ASSERT_TRUE(parsed.file.ok()) << parsed.file.error().message;
  EXPECT_EQ(parsed.file->batch_size, 3);
  const Request& first = parsed.file->requests.at(0);
  const Request& second = parsed.file->requests.at(1);
  ASSERT_FALSE(first.error) << first.error->message;
  ASSERT_FALSE(second.error) << second.error->message;
  EXPECT_EQ(first.messages.at(0).content, "ab");
  EXPECT_THAT(first.sampling.stop, ElementsAre("END"));
  EXPECT_TRUE(first.sampling.greedy());
  EXPECT_EQ(first.sampling.seed, 40u);
  EXPECT_EQ(first.sampling.logit_bias.at(5), -100.0f);
  EXPECT_EQ(second.sampling.temperature, 0.5f);
  EXPECT_EQ(second.sampling.top_k, 7);
  EXPECT_EQ(second.sampling.seed, 9u);
  EXPECT_THAT(second.sampling.logit_bias, ElementsAre(std::pair(6, 2.5f)));
  EXPECT_TRUE(second.save_system_prompt_kv_cache);
  EXPECT_TRUE(parsed.warnings.empty());
}

TEST(RequestFile, ASeedOfTheFileDiffersByRequest) {
  const Parsed parsed = parse(R"({"seed": 10, "requests": [
    {"messages": [{"role": "user", "content": "a"}]},
    {"messages": [{"role": "user", "content": "a"}]}]})");
  ASSERT_TRUE(parsed.file.ok());
  EXPECT_EQ(parsed.file->requests.at(0).sampling.seed, 10u);
  EXPECT_EQ(parsed.file->requests.at(1).sampling.seed, 11u);
}

TEST(RequestFile, OverridesWinOverBoth) {
  RequestOverrides overrides;
  overrides.batch_size = 8;
  overrides.max_generate_length = 3;
  overrides.num_logprobs = 2;
  const Parsed parsed = parse(
      R"({"batch_size": 2, "requests": [{"messages": [{"role": "user", "content": "a"}],
          "max_generate_length": 100, "num_logprobs": 1}]})",
      overrides);
  ASSERT_TRUE(parsed.file.ok());
  EXPECT_EQ(parsed.file->batch_size, 8);
  EXPECT_EQ(parsed.file->requests.at(0).sampling.max_generate_length, 3);
  EXPECT_EQ(parsed.file->requests.at(0).sampling.num_logprobs, 2);
}

TEST(RequestFile, MalformedJsonHasLineAndColumn) {
  const Parsed parsed = parse("{\n  \"requests\": [\n    {\"messages\" []}\n  ]\n}");
  ASSERT_FALSE(parsed.file.ok());
  EXPECT_THAT(parsed.file.error().message, HasSubstr("in.json: line 3, column 17"));
}

TEST(RequestFile, TopLevelFaultsFailTheFile) {
  for (const char* text :
       {"[]", "{}", R"({"requests": {}})", R"({"requests": []})",
        R"({"temperature": "hot", "requests": [{"messages": [{"role": "user", "content": "a"}]}]})",
        R"({"batch_size": 0, "requests": [{"messages": [{"role": "user", "content": "a"}]}]})"}) {
    EXPECT_FALSE(parse(text).file.ok()) << text;
  }
}

TEST(RequestFile, FaultsOfARequestStayItsOwn) {
  const Parsed parsed = parse(R"({"requests": [
    {"messages": [{"role": "user", "content": "good"}]},
    {"messages": []},
    {"messages": [{"role": "user", "content": ""}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"content": "no role"}]},
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "cat.png"}]}]},
    {"prompt": "no messages"},
    "text",
    {"messages": [{"role": "user", "content": "good too"}]}]})");
  ASSERT_TRUE(parsed.file.ok()) << parsed.file.error().message;
  const std::vector<Request>& requests = parsed.file->requests;
  ASSERT_EQ(requests.size(), 9u);
  EXPECT_FALSE(requests[0].error);
  EXPECT_FALSE(requests[8].error);
  for (int i = 1; i < 8; ++i) {
    ASSERT_TRUE(requests[static_cast<std::size_t>(i)].error) << i;
    EXPECT_THAT(requests[static_cast<std::size_t>(i)].error->message,
                HasSubstr("in.json: requests[" + std::to_string(i) + "]"));
  }
  EXPECT_EQ(requests[5].error->code, ErrorCode::kUnsupported);
}

TEST(RequestFile, RangesAreChecked) {
  for (const char* fields : {R"("temperature": -0.1)",
                             R"("temperature": 101)",
                             R"("temperature": true)",
                             R"("top_p": 1.5)",
                             R"("top_p": -1)",
                             R"("top_k": -1)",
                             R"("top_k": 2.5)",
                             R"("max_generate_length": 0)",
                             R"("num_logprobs": 51)",
                             R"("seed": -1)",
                             R"("logit_bias": [])",
                             R"("logit_bias": {"a": 1})",
                             R"("logit_bias": {"1x": 1})",
                             R"("logit_bias": {"-1": 1})",
                             R"("logit_bias": {"1": 101})",
                             R"("logit_bias": {"1": "2"})",
                             R"("logit_bias": {"99999999999": 1})",
                             R"("stop": "")",
                             R"("stop": [1])",
                             R"("stop": 5)",
                             R"("apply_chat_template": 1)",
                             R"("disable_spec_decode": "yes")",
                             R"("save_system_prompt_kv_cache": null, "enable_thinking": 0)"}) {
    EXPECT_THAT(request_error(fields), HasSubstr("in.json: requests[0]")) << fields;
  }
  std::string bias = R"("logit_bias": {"0": 1)";
  for (int i = 1; i <= 1024; ++i) bias += ", \"" + std::to_string(i) + "\": 1";
  EXPECT_THAT(request_error(bias + "}"), HasSubstr("1025"));
  EXPECT_EQ(request_error(R"("top_k": 0, "top_p": 0, "temperature": 0, "stop": [])"), "");
}

TEST(RequestFile, UnknownFieldsAreWarnedOnceByName) {
  const Parsed parsed = parse(R"({"tempreature": 1, "requests": [
    {"messages": [{"role": "user", "content": "a", "name": "bob"}], "top_kk": 1},
    {"messages": [{"role": "user", "content": "a"}], "top_kk": 1}]})");
  ASSERT_TRUE(parsed.file.ok());
  EXPECT_FALSE(parsed.file->requests.at(0).error);
  ASSERT_EQ(parsed.warnings.size(), 3u);
  EXPECT_THAT(parsed.warnings,
              testing::Contains(HasSubstr("in.json: unknown field `tempreature`")));
  EXPECT_THAT(parsed.warnings, testing::Contains(HasSubstr("requests[0].messages[0]: unknown field "
                                                           "`name`")));
  EXPECT_THAT(parsed.warnings, testing::Contains(HasSubstr("`top_kk` is ignored (there and in 1")));
}

TEST(RequestFile, AMissingFileIsNamed) {
  const Result<RequestFile> file = read_request_file("/nonexistent/in.json", {}, {});
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.error().message, HasSubstr("/nonexistent/in.json"));
}

}  // namespace
}  // namespace kv8::runtime
