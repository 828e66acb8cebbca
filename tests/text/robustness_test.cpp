// Hostile input: random bytes as text, damaged tokenizer files, damaged and hostile templates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text_test_util.h"

namespace kv8::text {
namespace {

using ::testing::HasSubstr;

const char* const kKinds[] = {"llama3", "qwen2", "llama2", "mistral"};

std::string tokenizer_text(const std::string& kind) {
  return read_text_file(data_path("tokenizers/" + kind + "/tokenizer.json")).value();
}

std::string random_bytes(std::mt19937& random, std::size_t size) {
  // Half of the bytes are text, so that both whole and broken characters occur.
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) {
    bytes.push_back(static_cast<char>(random() % 2 == 0 ? random() % 256 : ' ' + random() % 95));
  }
  return bytes;
}

TEST(Robustness, RandomBytesGoThere) {
  std::mt19937 random(7);
  for (const char* kind : kKinds) {
    const Tokenizer tokenizer =
        Tokenizer::load(data_path(std::string("tokenizers/") + kind)).value();
    const bool byte_level = tokenizer.token_id("\xC4\xA0") >= 0;  // Ġ
    for (int round = 0; round < 300; ++round) {
      const std::string bytes = random_bytes(random, random() % 200);
      const std::vector<TokenId> ids = tokenizer.encode(bytes, false);
      for (const TokenId id : ids) {
        ASSERT_GE(id, 0);
        ASSERT_LT(id, tokenizer.vocab_size());
      }
      const std::string text = tokenizer.decode(ids, false);
      ASSERT_EQ(text, replace_broken_utf8(text));
      // Byte-level tokenizers without a normalizer lose nothing.
      if (byte_level && std::string(kind) == "llama3") {
        ASSERT_EQ(text, replace_broken_utf8(bytes));
      }
    }
  }
}

TEST(Robustness, RandomIdsStreamAsTheyDecode) {
  std::mt19937 random(8);
  for (const char* kind : kKinds) {
    const Tokenizer tokenizer =
        Tokenizer::load(data_path(std::string("tokenizers/") + kind)).value();
    for (int round = 0; round < 300; ++round) {
      std::vector<TokenId> ids;
      for (std::size_t i = random() % 30; i > 0; --i) {
        const auto range = static_cast<std::uint32_t>(tokenizer.vocab_size()) + 4;
        ids.push_back(static_cast<TokenId>(random() % range) - 2);  // some do not exist
      }
      StreamDecoder decoder(tokenizer);
      std::string joined;
      for (const TokenId id : ids) {
        const std::string piece = decoder.push(id);
        ASSERT_EQ(piece, replace_broken_utf8(piece)) << "half a character";
        joined += piece;
      }
      joined += decoder.finish();
      ASSERT_EQ(joined, tokenizer.decode(ids, true));
    }
  }
}

TEST(Robustness, DamagedTokenizerFilesAreRefusedOrWork) {
  std::mt19937 random(9);
  int refused = 0;
  for (const char* kind : kKinds) {
    const std::string good = tokenizer_text(kind);
    // Most of the file is the vocabulary; the damage should hit the rest as often.
    const std::size_t head = good.find("\"vocab\"");
    for (int round = 0; round < 40; ++round) {
      std::string bad = good;
      const int damages = 1 + static_cast<int>(random() % 3);
      for (int i = 0; i < damages; ++i) {
        const std::size_t at = random() % (round % 2 == 0 ? head : bad.size());
        const std::size_t length = std::min<std::size_t>(1 + random() % 8, bad.size() - at);
        switch (random() % 4) {
          case 0:
            bad[at] = static_cast<char>(random() % 256);
            break;
          case 1:
            bad.erase(at, length);
            break;
          case 2:
            bad.insert(at, bad.substr(random() % bad.size(), length));
            break;
          default:
            bad.resize(std::max(at, head));
            break;
        }
      }
      const Result<Tokenizer> tokenizer = Tokenizer::parse(bad, "tokenizer.json");
      if (!tokenizer.ok()) {
        ++refused;
        EXPECT_THAT(tokenizer.error().message, HasSubstr("tokenizer.json"));
        continue;
      }
      tokenizer->decode(tokenizer->encode("Hello <s> wörld 123 😀\n", true), false);
    }
  }
  EXPECT_GT(refused, 20);
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Texts on which a quadratic step anywhere would take minutes.
TEST(Robustness, LongMonotonousTextsTakeNoLongerThanOthers) {
  constexpr std::size_t kSize = 300'000;
  std::string marks = "a";
  for (std::size_t i = 0; i < kSize / 4; ++i) marks += "\xCC\x81\xCC\xA3";  // acute, dot below
  const std::string texts[] = {std::string(kSize, 'a'),    std::string(kSize, ' '),
                               std::string(kSize, '\n'),   std::string(kSize, '7'),
                               std::string(kSize, '\xFF'), marks};
  for (const char* kind : kKinds) {
    const Tokenizer tokenizer =
        Tokenizer::load(data_path(std::string("tokenizers/") + kind)).value();
    for (const std::string& text : texts) {
      EXPECT_LT(seconds_of([&] { tokenizer.encode(text, false); }), 20.0)
          << kind << text.substr(0, 4);
    }
  }
}

TEST(Robustness, HostileTemplatesEnd) {
  const auto nested = [](int depth, const std::string& open, const std::string& close) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += open;
    text += "x";
    for (int i = 0; i < depth; ++i) text += close;
    return text;
  };
  std::string sum = "{{ 'a'";
  for (int i = 0; i < 5000; ++i) sum += "+'a'";
  const std::string sources[] = {
      "{{ " + nested(5000, "(", ")") + " }}",
      "{{ " + nested(5000, "[", "]") + " }}",
      "{{ " + nested(5000, "not ", "") + " }}",
      nested(5000, "{% if true %}", "{% endif %}"),
      nested(90, "{% for i in range(10000) %}", "{% endfor %}"),
      sum + " }}",
      "{% set x = 'aaaaaaaa' %}{% for i in range(100) %}{% set x = x %}{{ x + x }}{% endfor %}",
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% "
      "endfor %}",
      "{% set n = namespace() %}{% set n.x = [n] %}",
      "{% set n = namespace(x=[]) %}{% for i in range(9000) %}{% set n.x = [n.x] %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(a) %}{{ f(a + a) }}{% endmacro %}{{ f('aaaaaaaa') }}",
      "{{ 9999999999999999999999 }}",
      "{{ 999999999999 * 999999999999 * 999999999999 }}",
      "{{ -(-999999999999) % 0 }}",
      "{{ messages[99999999999] }}",
      "{{ messages[:-5][2:1] }}",
      "{% for x in range(-9223372036854, 9223372036854) %}{% endfor %}",
      "{{",
      "{%",
      "{#",
      "{{ '",
      "{% if %}",
      "{% endif %}",
      "{% else %}",
      "{{ } }}",
      "{{ a. }}"};
  for (const std::string& source : sources) {
    SCOPED_TRACE(source.substr(0, 60));
    EXPECT_LT(seconds_of([&] {
                const auto processed =
                    process_chat_template_source(source, "<s>", "</s>", "hostile.jinja");
                ASSERT_FALSE(processed.ok());
                EXPECT_THAT(processed.error().message, HasSubstr("hostile.jinja"));
              }),
              20.0);
  }
}

TEST(Robustness, DamagedTemplatesAreRefusedOrWork) {
  std::mt19937 random(10);
  const Json all = golden("chat_templates.json");
  for (const auto& [name, family] : all["families"].items()) {
    const auto good = family["chat_template"].get<std::string>();
    for (int round = 0; round < 40; ++round) {
      std::string bad = good;
      const std::size_t at = random() % bad.size();
      if (random() % 2 == 0) {
        bad.erase(at, 1 + random() % 6);
      } else {
        bad.insert(at, good.substr(random() % good.size(), 1 + random() % 12));
      }
      const auto processed = process_chat_template_source(bad, "<s>", "</s>", name);
      if (processed.ok()) continue;
      EXPECT_THAT(processed.error().message, HasSubstr(name));
    }
  }
}

}  // namespace
}  // namespace kv8::text
