#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text_test_util.h"

namespace kv8::text {
namespace {

using ::testing::HasSubstr;

std::optional<std::string> token(const Json& family, const char* name) {
  if (family[name].is_null()) return std::nullopt;
  return family[name].get<std::string>();
}

std::vector<ChatMessage> conversation(const Json& list) {
  std::vector<ChatMessage> messages;
  for (const Json& item : list) {
    messages.push_back({item["role"].get<std::string>(), item["content"].get<std::string>()});
  }
  return messages;
}

TEST(ChatTemplate, EqualsWhatTransformersRenders) {
  const Json all = golden("chat_templates.json");
  TemporaryDir dir;
  for (const auto& [name, family] : all["families"].items()) {
    SCOPED_TRACE(name);
    const Result<ChatTemplate> processed =
        process_chat_template_source(family["chat_template"].get<std::string>(),
                                     token(family, "bos_token"), token(family, "eos_token"), name);
    ASSERT_TRUE(processed.ok()) << processed.error().message;
    ASSERT_TRUE(write_chat_template(*processed, dir.path() / "processed_chat_template.json").ok());
    const ChatTemplate reread = process_chat_template(dir.path()).value();
    for (const Json& expected : family["cases"]) {
      SCOPED_TRACE(expected.dump());
      const auto messages =
          conversation(all["conversations"][expected["conversation"].get<std::string>()]);
      const bool generation = expected["add_generation_prompt"].get<bool>();
      const bool thinking = expected.value("enable_thinking", false);
      const auto text = expected["text"].get<std::string>();
      EXPECT_EQ(processed->format(messages, generation, thinking).value(), text);
      EXPECT_EQ(reread.format(messages, generation, thinking).value(), text);
      const std::string start = processed->format_system(messages);
      EXPECT_EQ(text.substr(0, start.size()), start);
    }
  }
}

TEST(ChatTemplate, RefusesOthersWithAdvice) {
  const Json all = golden("chat_templates.json");
  for (const auto& [name, entry] : all["refused"].items()) {
    const Result<ChatTemplate> processed = process_chat_template_source(
        entry["chat_template"].get<std::string>(), "<s>", "</s>", name);
    ASSERT_FALSE(processed.ok()) << name;
    EXPECT_EQ(processed.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(processed.error().message, HasSubstr(name));
    EXPECT_THAT(processed.error().message, HasSubstr("processed_chat_template.json"));
    EXPECT_THAT(processed.error().message, HasSubstr("apply_chat_template"));
  }
}

}  // namespace
}  // namespace kv8::text
