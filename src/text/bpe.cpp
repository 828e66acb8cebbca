#include "text/bpe.h"

#include <algorithm>

#include "base/json.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

constexpr TokenId kMerged = -1;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

/// A pair of neighbours that may be merged. Among equal ranks the leftmost goes first.
struct Bpe::Candidate {
  std::uint32_t rank;
  std::int32_t position;
  TokenId result;
  bool operator<(const Candidate& other) const {  // for a heap whose top is the lowest rank
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

Result<Bpe> Bpe::parse(const Json& model, BpeTables tables, std::string_view source) {
  Bpe bpe;
  KV8_TRY(bpe.add_vocab(std::move(tables.vocab), source));
  KV8_TRY(bpe.add_merges(tables.merges, source));
  KV8_TRY(bpe.parse_options(model, source));
  return bpe;
}

Status Bpe::add_vocab(std::vector<std::pair<std::string, std::int64_t>> vocab,
                      std::string_view source) {
  if (vocab.empty()) return bad_input("{}: `model.vocab` is missing or empty", source);
  std::int64_t largest = 0;
  for (const auto& [token, id] : vocab) {
    if (id < 0 || id > kMaxId) {
      return bad_input("{}: token `{}` has id {}, expected 0 to {}", source, token, id, kMaxId);
    }
    largest = std::max(largest, id);
  }
  max_id_ = static_cast<std::int32_t>(largest);
  token_of_id_.assign(static_cast<std::size_t>(largest) + 1, -1);
  bmp_ids_.assign(0x10000, -1);
  tokens_.reserve(vocab.size());  // ids_ points into it
  ids_.reserve(vocab.size());
  for (auto& [token, id] : vocab) {
    std::int32_t& slot = token_of_id_[static_cast<std::size_t>(id)];
    if (slot >= 0) {
      return bad_input("{}: tokens `{}` and `{}` share the id {}", source,
                       tokens_[static_cast<std::size_t>(slot)], token, id);
    }
    slot = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(std::move(token));
    const std::string& stored = tokens_.back();
    const auto id32 = static_cast<TokenId>(id);
    if (!ids_.emplace(stored, id32).second) {
      return bad_input("{}: token `{}` occurs twice in `model.vocab`", source, stored);
    }
    if (stored.empty()) continue;
    const CodePoint first = decode_utf8(stored, 0);
    if (first.length == stored.size() && first.value < 0x10000) bmp_ids_[first.value] = id32;
  }
  for (int byte = 0; byte < 256; ++byte) byte_ids_[byte] = id_of(fmt::format("<0x{:02X}>", byte));
  return {};
}

Status Bpe::add_merges(const std::vector<std::pair<std::string, std::string>>& merges,
                       std::string_view source) {
  merges_.reserve(merges.size());
  std::string joined;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined = left;
    joined += right;
    const TokenId ids[3] = {id_of(left), id_of(right), id_of(joined)};
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0) {
      return bad_input("{}: merge {} (`{}` with `{}`): the token `{}` is not in `model.vocab`",
                       source, rank, left, right,
                       ids[0] < 0   ? left
                       : ids[1] < 0 ? right
                                    : joined);
    }
    // Of a repeated pair the last rank counts.
    merges_[pair_key(ids[0], ids[1])] = {static_cast<std::uint32_t>(rank), ids[2]};
  }
  return {};
}

Status Bpe::parse_options(const Json& model, std::string_view source) {
  if (KV8_TRY(json_number_or(model, "dropout", source, 0)) != 0) {
    return unsupported("{}: `model.dropout` is not supported: it makes the ids random", source);
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!KV8_TRY(json_string_or(model, affix, source, "")).empty()) {
      return unsupported("{}: `model.{}` is not supported", source, affix);
    }
  }
  ignore_merges_ = KV8_TRY(json_bool_or(model, "ignore_merges", source, false));
  byte_fallback_ = KV8_TRY(json_bool_or(model, "byte_fallback", source, false));
  fuse_unk_ = KV8_TRY(json_bool_or(model, "fuse_unk", source, false));
  const std::string unk = KV8_TRY(json_string_or(model, "unk_token", source, ""));
  unk_ = unk.empty() ? -1 : id_of(unk);
  if (!unk.empty() && unk_ < 0) {
    return bad_input("{}: `model.unk_token` `{}` is not in `model.vocab`", source, unk);
  }
  return {};
}

TokenId Bpe::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* Bpe::token_of(TokenId id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= token_of_id_.size()) return nullptr;
  const std::int32_t index = token_of_id_[static_cast<std::size_t>(id)];
  return index < 0 ? nullptr : &tokens_[static_cast<std::size_t>(index)];
}

TokenId Bpe::character_id(char32_t code, std::string_view character) const {
  return code < bmp_ids_.size() ? bmp_ids_[code] : id_of(character);
}

/// The tokens <0x00> … <0xFF> of a character; false unless all of them exist.
bool Bpe::append_bytes(std::string_view character, std::vector<Symbol>& symbols) const {
  const auto id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (std::any_of(character.begin(), character.end(), [&](char c) { return id(c) < 0; })) {
    return false;
  }
  for (const char c : character) symbols.push_back({id(c), 0, 0});
  return true;
}

void Bpe::split_characters(std::string_view word, std::vector<Symbol>& symbols) const {
  bool unk_pending = false;
  const auto flush_unk = [&] {
    if (unk_pending) symbols.push_back({unk_, 0, 0});
    unk_pending = false;
  };
  for (std::size_t at = 0; at < word.size();) {
    const CodePoint c = decode_utf8(word, at);
    const std::string_view character = word.substr(at, c.length);
    at += c.length;
    const TokenId id = character_id(c.value, character);
    if (id >= 0) {
      flush_unk();
      symbols.push_back({id, 0, 0});
    } else if (byte_fallback_ && append_bytes(character, symbols)) {
      continue;
    } else if (unk_ >= 0) {
      if (!fuse_unk_) flush_unk();
      unk_pending = true;
    }
  }
  flush_unk();
}

const Bpe::Merge* Bpe::find_merge(TokenId left, TokenId right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

/// Merges the neighbours of lowest rank until none are left: O(n log n) by a heap of candidates
/// over a linked list. Candidates that a merge overtook are recognised when they come up.
void Bpe::merge_all(std::vector<Symbol>& symbols) const {
  std::vector<Candidate> heap;
  const auto count = static_cast<std::int32_t>(symbols.size());
  const auto symbol = [&](std::int32_t i) -> Symbol& {
    return symbols[static_cast<std::size_t>(i)];
  };
  const auto candidate = [&](std::int32_t left, std::int32_t right) {
    const Merge* merge = find_merge(symbol(left).id, symbol(right).id);
    if (merge == nullptr) return false;
    heap.push_back({merge->rank, left, merge->result});
    return true;
  };
  for (std::int32_t i = 0; i < count; ++i) {
    symbol(i).previous = i - 1;
    symbol(i).next = i + 1 < count ? i + 1 : -1;
    if (i + 1 < count) candidate(i, i + 1);
  }
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbol(best.position);
    if (left.id == kMerged || left.next < 0) continue;
    Symbol& right = symbol(left.next);
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->result != best.result) continue;
    left.id = best.result;
    right.id = kMerged;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = best.position;
    if (left.previous >= 0 && candidate(left.previous, best.position)) {
      std::push_heap(heap.begin(), heap.end());
    }
    if (left.next >= 0 && candidate(best.position, left.next)) {
      std::push_heap(heap.begin(), heap.end());
    }
  }
}

void Bpe::encode(std::string_view word, std::vector<TokenId>& out) const {
  if (ignore_merges_) {
    if (const TokenId whole = id_of(word); whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  split_characters(word, symbols);
  merge_all(symbols);
  for (const Symbol& symbol : symbols) {
    if (symbol.id != kMerged) out.push_back(symbol.id);
  }
}

}  // namespace kv8::text
