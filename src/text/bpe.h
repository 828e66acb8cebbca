// Byte-pair encoding of one word.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace kv8::text {

/// Entries of the `model` section that are too many for a JSON document in memory.
struct BpeTables {
  std::vector<std::pair<std::string, std::int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
};

class Bpe {
 public:
  /// Ids up to this one; far beyond any tokenizer, and small enough to index by.
  static constexpr std::int64_t kMaxId = (1 << 22) - 1;

  /// `model` without its vocab and merges, which are in `tables`. Merges that name unknown tokens,
  /// repeated ids, dropout, and prefixes or suffixes of subwords are refused.
  static Result<Bpe> parse(const nlohmann::ordered_json& model, BpeTables tables,
                           std::string_view source);

  /// Appends the ids of `word` (valid UTF-8, not empty).
  void encode(std::string_view word, std::vector<TokenId>& out) const;
  /// -1 if there is no such token.
  TokenId id_of(std::string_view token) const;
  /// nullptr if there is no such id.
  const std::string* token_of(TokenId id) const;
  std::int32_t max_id() const { return max_id_; }

 private:
  struct Merge {
    std::uint32_t rank;
    TokenId result;
  };
  struct Symbol {
    TokenId id;  ///< kMerged once it is part of its left neighbour
    std::int32_t previous, next;
  };
  struct Candidate;

  Status add_vocab(std::vector<std::pair<std::string, std::int64_t>> vocab,
                   std::string_view source);
  Status add_merges(const std::vector<std::pair<std::string, std::string>>& merges,
                    std::string_view source);
  Status parse_options(const nlohmann::ordered_json& model, std::string_view source);
  void split_characters(std::string_view word, std::vector<Symbol>& symbols) const;
  bool append_bytes(std::string_view character, std::vector<Symbol>& symbols) const;
  const Merge* find_merge(TokenId left, TokenId right) const;
  void merge_all(std::vector<Symbol>& symbols) const;
  TokenId character_id(char32_t code, std::string_view character) const;

  std::vector<std::string> tokens_;        // in the file's order
  std::vector<std::int32_t> token_of_id_;  // index into tokens_, -1: no such id
  std::unordered_map<std::string_view, TokenId> ids_;
  std::vector<TokenId> bmp_ids_;  // of one-character tokens below U+10000
  std::unordered_map<std::uint64_t, Merge> merges_;
  TokenId byte_ids_[256];
  TokenId unk_ = -1;
  std::int32_t max_id_ = -1;
  bool ignore_merges_ = false, byte_fallback_ = false, fuse_unk_ = false;
};

}  // namespace kv8::text
