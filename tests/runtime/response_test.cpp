#include <gtest/gtest.h>

#include "base/json.h"
#include "base/temp_dir.h"
#include "runtime/generate.h"

namespace kv8::runtime {
namespace {

TEST(ResponseFile, HasTheFieldsOfTheContract) {
  RequestFile file;
  file.path = "in.json";
  file.requests.resize(2);
  file.requests[0].messages = {{"system", "s"}, {"user", "h\"i"}};
  file.requests[0].sampling.num_logprobs = 1;
  file.requests[1].messages = {{"user", "bad"}};
  std::vector<Response> responses(2);
  responses[0].output_text = "\xC3\xA9";
  responses[0].finish_reason = FinishReason::kEndOfSequence;
  responses[0].formatted_system_prompt = "<s>";
  responses[0].formatted_complete_request = "<s><u>";
  // Half of a character.
  const TokenLogprob half{7, "\xC3", -0.5f};
  responses[0].logprobs = {{half, {half}}};
  responses[1].request_idx = 1;
  responses[1].finish_reason = FinishReason::kError;
  responses[1].error = capacity_error("too long");

  const test::TempDir dir;
  ASSERT_TRUE(write_response_file(file, responses, dir / "out.json").ok());
  const Json json = read_json_file(dir / "out.json").value();
  EXPECT_EQ(json["input_file"], "in.json");
  const Json& good = json["responses"][0];
  EXPECT_EQ(good["output_text"], "\xC3\xA9");
  EXPECT_EQ(good["finish_reason"], "end-of-sequence");
  EXPECT_EQ(good["messages"][1]["content"], "h\"i");
  EXPECT_EQ(good["formatted_system_prompt"], "<s>");
  EXPECT_EQ(good["formatted_complete_request"], "<s><u>");
  EXPECT_EQ(good["logprobs"][0]["bytes"], Json::array({0xC3}));
  EXPECT_EQ(good["logprobs"][0]["token"], "\xEF\xBF\xBD");
  EXPECT_EQ(good["logprobs"][0]["top_logprobs"][0]["token_id"], 7);
  EXPECT_FALSE(good.contains("error"));
  const Json& bad = json["responses"][1];
  EXPECT_EQ(bad["request_idx"], 1);
  EXPECT_EQ(bad["finish_reason"], "error");
  EXPECT_EQ(bad["error"]["message"], "too long");
  EXPECT_EQ(bad["error"]["code"], error_code_name(ErrorCode::kCapacity));
  EXPECT_FALSE(bad.contains("logprobs"));
}

TEST(ResponseFile, AnUnwritablePlaceIsAnError) {
  RequestFile file;
  file.requests.resize(1);
  const Status status =
      write_response_file(file, std::vector<Response>(1), "/nonexistent/folder/out.json");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("/nonexistent/folder"), std::string::npos);
}

}  // namespace
}  // namespace kv8::runtime
