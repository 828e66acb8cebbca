// Text to token ids and back, from a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kv8::text {

using TokenId = std::int32_t;

/// BPE tokenizers: byte-level (GPT-2 family: SmolLM2, Llama 3, Qwen) and SentencePiece-style with
/// byte fallback (Llama 2, Mistral). Immutable and safe to share between threads. Gives the ids
/// that Hugging Face `tokenizers` gives.
class Tokenizer {
 public:
  /// Reads `dir`/tokenizer.json. Unsupported models, normalizers, pre-tokenizers, post-processors
  /// and decoders are refused by name; the `truncation` and `padding` sections are ignored.
  static Result<Tokenizer> load(const std::filesystem::path& dir);
  /// The same from the file's text; `source` names it in errors.
  static Result<Tokenizer> parse(std::string_view json, std::string_view source);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Ids of `text`. Broken UTF-8 is first replaced by U+FFFD. Special tokens inside the text are
  /// recognised. `add_special_tokens`: as the post-processor says (BOS and the like).
  std::vector<TokenId> encode(std::string_view text, bool add_special_tokens) const;
  /// Text of `ids`; ids outside the vocabulary are skipped.
  std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const;
  /// Raw bytes that a token stands for (part of a character, perhaps); for special tokens their
  /// content.
  std::string token_bytes(TokenId id) const;
  bool is_special(TokenId id) const;
  /// -1 if there is no such token.
  TokenId token_id(std::string_view token) const;
  /// One more than the largest id, added tokens included.
  std::int32_t vocab_size() const;
  /// True when decoding strips one leading space of the whole text (SentencePiece style).
  bool strips_leading_space() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Turns ids into text piece by piece, never giving half a character. The pieces joined equal
/// decode() of all ids with special tokens skipped. Refers to the tokenizer, which must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();
  /// Whole characters that became complete with `id`; may be empty. A run of byte tokens
  /// (SentencePiece's byte fallback) comes when it ends, since one broken byte breaks all of it.
  std::string push(TokenId id);
  /// What is left at the end, broken bytes as U+FFFD; the decoder then starts anew.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// `text` with every maximal broken subsequence of UTF-8 replaced by U+FFFD (Unicode's
/// recommended practice, as WHATWG's decoder and Python's errors="replace" do).
std::string replace_broken_utf8(std::string_view text);

}  // namespace kv8::text
