// Added tokens: strings that are cut out of the text before it is split into words.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "text/bpe.h"
#include "text/normalizer.h"

namespace kv8::text {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  std::string
      decoded;  ///< what the decoder gets: the content, normalized where `normalized` says so
  bool single_word = false, lstrip = false, rstrip = false, normalized = true, special = false;
};

/// Finds strings in text: at each place the longest that starts there.
class TokenTrie {
 public:
  TokenTrie() : nodes_(1) {}
  void add(std::string_view content, std::int32_t value);
  bool empty() const { return nodes_.size() == 1; }
  struct Match {
    std::size_t begin = 0, end = 0;
    std::int32_t value = -1;  ///< -1: none
  };
  /// The leftmost match from `start` on, and of those the longest.
  Match find(std::string_view text, std::size_t start) const;

 private:
  struct Node {
    std::unordered_map<unsigned char, std::int32_t> next;
    std::int32_t value = -1;
  };
  std::vector<Node> nodes_;
};

class AddedTokens {
 public:
  static Result<AddedTokens> parse(const nlohmann::ordered_json& list, const Bpe& model,
                                   const Normalizer& normalizer, std::string_view source);

  /// A stretch of text, or a token where `id` >= 0.
  struct Piece {
    Range range;
    TokenId id;
  };
  /// Cuts text at the tokens that are looked for before (or after) normalization.
  std::vector<Piece> cut(std::string_view text, bool normalized) const;
  /// nullptr if the id is not an added token's.
  const AddedToken* find(TokenId id) const;
  TokenId id_of(std::string_view content) const;
  std::int32_t max_id() const { return max_id_; }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<TokenId, std::size_t> by_id_;
  std::unordered_map<std::string, TokenId> by_content_;
  TokenTrie raw_, normalized_;
  std::int32_t max_id_ = -1;
};

}  // namespace kv8::text
