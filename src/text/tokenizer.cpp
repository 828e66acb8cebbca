#include "text/tokenizer.h"

#include <algorithm>

#include "base/file.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"

namespace kv8::text {

struct Tokenizer::Impl {
  Bpe model;
  Normalizer normalizer;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  DecoderChain decoder;

  /// Ids of a stretch without added tokens that are matched before normalization.
  void encode_stretch(std::string_view text, bool at_start, std::vector<TokenId>& ids) const {
    std::string changed;
    if (!normalizer.empty()) {
      changed = normalizer.apply(std::string(text));
      text = changed;
    }
    for (const AddedTokens::Piece& piece : added.cut(text, true)) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      pre_tokenizer.split(text.substr(piece.range.begin, piece.range.end - piece.range.begin),
                          at_start && piece.range.begin == 0,
                          [&](std::string_view word) { model.encode(word, ids); });
    }
  }

  /// What the decoder gets for an id; nullptr if there is no such id.
  const std::string* token_of(TokenId id) const {
    const AddedToken* token = added.find(id);
    return token != nullptr ? &token->decoded : model.token_of(id);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "tokenizer.json";
  const std::string text = KV8_TRY(read_text_file(path, std::uint64_t{1} << 28));
  return parse(text, path.string());
}

Result<Tokenizer> Tokenizer::parse(std::string_view json, std::string_view source) {
  TokenizerFile file = KV8_TRY(parse_tokenizer_file(json, source));
  if (!file.rest.is_object()) return bad_input("{}: must hold a JSON object", source);
  const auto section = [&](const char* name) { return file.rest.value(name, Json()); };
  const auto named = [&](const char* name) { return fmt::format("{}: `{}`", source, name); };

  const Json model = section("model");
  if (!model.is_object()) return bad_input("{}: field `model` is missing", source);
  const std::string type = KV8_TRY(json_string_or(model, "type", source, "BPE"));
  if (type != "BPE") {
    return unsupported("{}: model type `{}` is not supported (supported: BPE)", source, type);
  }
  auto impl = std::make_unique<Impl>();
  impl->model = KV8_TRY(Bpe::parse(model, std::move(file.tables), source));
  impl->normalizer = KV8_TRY(Normalizer::parse(section("normalizer"), named("normalizer")));
  impl->added = KV8_TRY(AddedTokens::parse(section("added_tokens"), impl->model, impl->normalizer,
                                           named("added_tokens")));
  impl->pre_tokenizer =
      KV8_TRY(PreTokenizer::parse(section("pre_tokenizer"), named("pre_tokenizer")));
  impl->post_processor =
      KV8_TRY(PostProcessor::parse(section("post_processor"), named("post_processor")));
  impl->decoder = KV8_TRY(DecoderChain::parse(section("decoder"), named("decoder")));
  return Tokenizer(std::move(impl));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_broken_utf8(text);
    text = repaired;
  }
  std::vector<TokenId> ids;
  if (add_special_tokens) ids = impl_->post_processor.before;
  for (const AddedTokens::Piece& piece : impl_->added.cut(text, false)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      impl_->encode_stretch(text.substr(piece.range.begin, piece.range.end - piece.range.begin),
                            piece.range.begin == 0, ids);
    }
  }
  if (add_special_tokens) {
    const std::vector<TokenId>& behind = impl_->post_processor.behind;
    ids.insert(ids.end(), behind.begin(), behind.end());
  }
  return ids;
}

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const {
  std::string text;
  DecoderChain::State state;
  for (const TokenId id : ids) {
    const std::string* token = impl_->token_of(id);
    if (token == nullptr || (skip_special_tokens && is_special(id))) continue;
    impl_->decoder.push(state, *token, text);
  }
  impl_->decoder.finish(state, text);
  return text;
}

std::string Tokenizer::token_bytes(TokenId id) const {
  if (const AddedToken* token = impl_->added.find(id)) return token->content;
  const std::string* token = impl_->model.token_of(id);
  return token == nullptr ? "" : impl_->decoder.token_bytes(*token);
}

bool Tokenizer::is_special(TokenId id) const {
  const AddedToken* token = impl_->added.find(id);
  return token != nullptr && token->special;
}

TokenId Tokenizer::token_id(std::string_view token) const {
  const TokenId added = impl_->added.id_of(token);
  return added >= 0 ? added : impl_->model.id_of(token);
}

std::int32_t Tokenizer::vocab_size() const {
  return std::max(impl_->model.max_id(), impl_->added.max_id()) + 1;
}

bool Tokenizer::strips_leading_space() const { return impl_->decoder.strips_leading_space(); }

struct StreamDecoder::State {
  const Tokenizer::Impl* tokenizer;
  DecoderChain::State chain;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer)
    : state_(std::make_unique<State>(State{tokenizer.impl_.get(), {}})) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(TokenId id) {
  std::string text;
  const AddedToken* added = state_->tokenizer->added.find(id);
  const std::string* token = state_->tokenizer->token_of(id);
  if (token != nullptr && (added == nullptr || !added->special)) {
    state_->tokenizer->decoder.push(state_->chain, *token, text);
  }
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  state_->tokenizer->decoder.finish(state_->chain, text);
  state_->chain.clear();
  return text;
}

}  // namespace kv8::text
