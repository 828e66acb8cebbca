#include "text/added_tokens.h"

#include <algorithm>

#include "base/json.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

// Bounds the work per character of text.
constexpr std::size_t kMaxContentBytes = 1024;

Result<AddedToken> parse_token(const Json& json, std::string_view source) {
  AddedToken token;
  token.id = static_cast<TokenId>(KV8_TRY(json_int(json, "id", source, 0, Bpe::kMaxId)));
  token.content = KV8_TRY(json_string(json, "content", source));
  token.single_word = KV8_TRY(json_bool_or(json, "single_word", source, false));
  token.lstrip = KV8_TRY(json_bool_or(json, "lstrip", source, false));
  token.rstrip = KV8_TRY(json_bool_or(json, "rstrip", source, false));
  token.special = KV8_TRY(json_bool_or(json, "special", source, false));
  token.normalized = KV8_TRY(json_bool_or(json, "normalized", source, !token.special));
  if (token.content.size() > kMaxContentBytes) {
    return bad_input("{}: the content of id {} has {} bytes (at most {} are allowed)", source,
                     token.id, token.content.size(), kMaxContentBytes);
  }
  return token;
}

}  // namespace

void TokenTrie::add(std::string_view content, std::int32_t value) {
  std::size_t node = 0;
  for (const char c : content) {
    const auto [edge, is_new] = nodes_[node].next.try_emplace(
        static_cast<unsigned char>(c), static_cast<std::int32_t>(nodes_.size()));
    node = static_cast<std::size_t>(edge->second);
    if (is_new) nodes_.emplace_back();
  }
  if (nodes_[node].value < 0) nodes_[node].value = value;
}

TokenTrie::Match TokenTrie::find(std::string_view text, std::size_t start) const {
  for (std::size_t begin = start; begin < text.size(); ++begin) {
    Match best;
    std::size_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
      const auto edge = nodes_[node].next.find(static_cast<unsigned char>(text[at]));
      if (edge == nodes_[node].next.end()) break;
      node = static_cast<std::size_t>(edge->second);
      if (nodes_[node].value >= 0) best = {begin, at + 1, nodes_[node].value};
    }
    if (best.value >= 0) return best;
  }
  return {};
}

Result<AddedTokens> AddedTokens::parse(const Json& list, const Bpe& model,
                                       const Normalizer& normalizer, std::string_view source) {
  AddedTokens added;
  if (list.is_null()) return added;
  if (!list.is_array()) return bad_input("{}: `added_tokens` must be a list", source);
  for (const Json& item : list) {
    AddedToken token = KV8_TRY(parse_token(item, source));
    if (token.content.empty()) continue;
    const TokenId known = model.id_of(token.content);
    const std::string* holder = model.token_of(token.id);
    if ((known >= 0 && known != token.id) || (holder != nullptr && *holder != token.content)) {
      return bad_input("{}: added token `{}` has id {}, but `model.vocab` says otherwise", source,
                       token.content, token.id);
    }
    const bool new_content = added.by_content_.emplace(token.content, token.id).second;
    const bool new_id = added.by_id_.emplace(token.id, added.tokens_.size()).second;
    if (!new_content || !new_id) {
      return bad_input("{}: added token `{}` or its id {} occurs twice", source, token.content,
                       token.id);
    }
    added.max_id_ = std::max(added.max_id_, token.id);
    const auto index = static_cast<std::int32_t>(added.tokens_.size());
    token.decoded = token.normalized ? normalizer.apply(token.content) : token.content;
    if (token.decoded.empty()) {
      return bad_input("{}: added token `{}` is empty after normalization", source, token.content);
    }
    (token.normalized ? added.normalized_ : added.raw_).add(token.decoded, index);
    added.tokens_.push_back(std::move(token));
  }
  return added;
}

std::vector<AddedTokens::Piece> AddedTokens::cut(std::string_view text, bool normalized) const {
  const TokenTrie& trie = normalized ? normalized_ : raw_;
  std::vector<Piece> pieces;
  std::size_t done = 0;
  Range blank{0, 0};  // the last stretch of white space behind a token, to measure it once
  for (std::size_t look_from = 0; !trie.empty();) {
    const TokenTrie::Match match = trie.find(text, look_from);
    if (match.value < 0) break;
    look_from = match.end;
    const AddedToken& token = tokens_[static_cast<std::size_t>(match.value)];
    std::size_t begin = match.begin, end = match.end;
    const bool word_before = begin > 0 && is_word(last_utf8(text.substr(0, begin)).value);
    const bool word_behind = end < text.size() && is_word(decode_utf8(text, end).value);
    if (token.single_word && (word_before || word_behind)) continue;
    // White space that the token before took is not taken again, but a token of white space stays.
    if (token.lstrip) {
      begin = begin <= done ? done : begin - trailing_white_space(text.substr(done, begin - done));
    }
    if (token.rstrip) {
      if (end < blank.begin || end > blank.end) {
        blank = {end, end + leading_white_space(text.substr(end))};
      }
      end = blank.end;
    }
    if (done < begin) pieces.push_back({{done, begin}, -1});
    if (begin < end) pieces.push_back({{begin, end}, token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({{done, text.size()}, -1});
  return pieces;
}

const AddedToken* AddedTokens::find(TokenId id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

TokenId AddedTokens::id_of(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? -1 : found->second;
}

}  // namespace kv8::text
