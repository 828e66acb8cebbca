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

TEST(ChatTemplate, TemplatesThatAlwaysAskForAnAnswer) {
  const auto processed = process_chat_template_source(
      "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
      "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 "
      "%}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
      "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
      "<B>", "<E>", "old");
  ASSERT_TRUE(processed.ok()) << processed.error().message;
  EXPECT_EQ(processed->format({{"user", " a "}}, false, false).value(),
            "<B><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, SystemMessageTrimmedTogetherWithTheFirstTurn) {
  const auto processed = process_chat_template_source(
      "{% set system = '' %}{% if messages[0].role == 'system' %}"
      "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
      "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
      "{% if m.role == 'user' %}{% set body = system + m.content if loop.first else m.content %}"
      "{{ bos_token ~ '[INST] ' ~ body.strip() ~ ' [/INST]' }}"
      "{% else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}",
      "<s>", "</s>", "two");
  ASSERT_TRUE(processed.ok()) << processed.error().message;
  EXPECT_EQ(processed->system_placement, SystemPlacement::kFirstUser);
  const std::vector<ChatMessage> messages = {{"system", " s "}, {"user", " u "}};
  EXPECT_EQ(processed->format(messages, true, false).value(),
            "<s>[INST] <<SYS>>\n s \n<</SYS>>\n\n u [/INST]");
  EXPECT_EQ(processed->format_system(messages), "<s>[INST] <<SYS>>\n s \n<</SYS>>");
}

TEST(ChatTemplate, NamesTheMessageThatIsWrong) {
  ChatTemplate value;
  const auto error = [&](const std::vector<ChatMessage>& messages) {
    return value.format(messages, true, false).error().message;
  };
  EXPECT_THAT(error({}), HasSubstr("at least one message"));
  EXPECT_THAT(error({{"user", ""}, {"tool", ""}}), HasSubstr("message 2: unknown role `tool`"));
  EXPECT_THAT(error({{"user", ""}, {"system", ""}}), HasSubstr("message 2"));
  value.alternating = true;
  EXPECT_THAT(error({{"user", ""}, {"user", ""}}), HasSubstr("take turns"));
  value.system_placement = SystemPlacement::kNone;
  EXPECT_THAT(error({{"system", ""}, {"user", ""}}), HasSubstr("no system message"));
}

TEST(ChatTemplate, FilesByHandNeedOnlyTheContractsFields) {
  TemporaryDir dir;
  const auto file = dir.path() / "processed_chat_template.json";
  ASSERT_TRUE(write_text_file(file, R"({"roles": {"system": {"prefix": "S", "suffix": "s"},
      "user": {"prefix": "U", "suffix": "u"}, "assistant": {"prefix": "A", "suffix": "a"}},
      "content_types": {}, "generation_prompt": "A", "default_system_prompt": "be kind"})")
                  .ok());
  const ChatTemplate value = process_chat_template(dir.path()).value();
  EXPECT_EQ(value.format({{"user", "1"}, {"assistant", "2"}, {"user", "3"}}, true, false).value(),
            "Sbe kindsU1uA2aU3uA");
  EXPECT_EQ(value.format_system({{"user", "1"}}), "Sbe kinds");
  EXPECT_EQ(value.format_system({{"system", "x"}, {"user", "1"}}), "Sxs");
  ASSERT_TRUE(write_text_file(file, R"({"roles": {"user": {"prefix": "U"}}})").ok());
  EXPECT_THAT(process_chat_template(dir.path()).error().message, HasSubstr("roles.system"));
}

TEST(ChatTemplate, FoldersWithoutATemplate) {
  TemporaryDir dir;
  const auto config = dir.path() / "tokenizer_config.json";
  EXPECT_EQ(process_chat_template(dir.path()).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(write_text_file(config, R"({"bos_token": null})").ok());
  EXPECT_EQ(process_chat_template(dir.path()).error().code, ErrorCode::kNotFound);
  const std::string chatml =
      golden("chat_templates.json")["families"]["chatml_plain"]["chat_template"].get<std::string>();
  const Json list = {
      {"chat_template",
       {{{"name", "other"}, {"template", "x"}}, {{"name", "default"}, {"template", chatml}}}}};
  ASSERT_TRUE(write_text_file(config, list.dump()).ok());
  EXPECT_EQ(process_chat_template(dir.path()).value().user.prefix, "<|im_start|>user\n");
  ASSERT_TRUE(write_text_file(dir.path() / "chat_template.jinja", "{{ 1 }}").ok());
  EXPECT_THAT(process_chat_template(dir.path()).error().message, HasSubstr("chat_template.jinja"));
}

}  // namespace
}  // namespace kv8::text
