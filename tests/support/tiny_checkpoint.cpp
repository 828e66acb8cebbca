#include "support/tiny_checkpoint.h"

#include "base/file.h"
#include "base/json.h"

namespace kv8::test {
namespace {

constexpr int kFirstByteId = 8;
constexpr const char* kChatMl =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
    "}}"
    "{% endif %}";

std::string utf8(unsigned code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// GPT-2's printable stand-in for a byte: itself where printable in Latin-1, else U+0100 upwards.
std::string byte_symbol(int byte) {
  const auto printable = [](int b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  if (printable(byte)) return utf8(static_cast<unsigned>(byte));
  unsigned rank = 0;
  for (int b = 0; b < byte; ++b) rank += !printable(b);
  return utf8(0x100 + rank);
}

std::string special_name(int id) {
  if (id == 0) return "<|endoftext|>";
  if (id == 1) return "<|im_start|>";
  if (id == 2) return "<|im_end|>";
  return "<|reserved_" + std::to_string(id) + "|>";
}

Json tokenizer_json() {
  Json vocab = Json::object(), added = Json::array();
  for (int id = 0; id < kFirstByteId; ++id) {
    vocab[special_name(id)] = id;
    added.push_back({{"id", id},
                     {"content", special_name(id)},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  for (int byte = 0; byte < 256; ++byte) vocab[byte_symbol(byte)] = kFirstByteId + byte;
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

}  // namespace

void write_tiny_tokenizer(const std::filesystem::path& dir) {
  std::filesystem::create_directories(dir);
  write_json_file(dir / "tokenizer.json", tokenizer_json()).value();
  write_json_file(dir / "tokenizer_config.json",
                  {{"eos_token", "<|im_end|>"}, {"chat_template", kChatMl}})
      .value();
  write_json_file(dir / "generation_config.json", {{"eos_token_id", 2}}).value();
}

void make_tiny_checkpoint(const std::string& model, const std::filesystem::path& dir) {
  write_tiny_tokenizer(dir);
  const std::filesystem::path source = std::filesystem::path(KV8_TEST_DATA) / "models" / model;
  for (const auto& entry : std::filesystem::directory_iterator(source)) {
    kv8::copy_file(entry.path(), dir / entry.path().filename()).value();
  }
}

}  // namespace kv8::test
