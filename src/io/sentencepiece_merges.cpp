#include "io/sentencepiece_merges.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

namespace kv8::io {
namespace {

struct Split {
  std::string_view left, right;
  double score;
  std::size_t left_length, right_length;  // in characters
};

bool starts_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

}  // namespace

std::vector<Merge> merges_from_scores(const std::vector<ScoredPiece>& pieces) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  for (const ScoredPiece& piece : pieces) ids.emplace(piece.text, piece.id);
  std::vector<Split> splits;
  for (const ScoredPiece& piece : pieces) {
    const auto length = static_cast<std::size_t>(
        std::count_if(piece.text.begin(), piece.text.end(), starts_character));
    std::vector<std::tuple<std::int32_t, std::int32_t, Split>> found;
    std::size_t characters = 1;
    for (std::size_t at = 1; at < piece.text.size(); ++at) {
      if (!starts_character(piece.text[at])) continue;
      const auto left = ids.find(piece.text.substr(0, at)), right = ids.find(piece.text.substr(at));
      if (left != ids.end() && right != ids.end()) {
        found.emplace_back(
            left->second, right->second,
            Split{left->first, right->first, piece.score, characters, length - characters});
      }
      ++characters;
    }
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
    });
    for (const auto& entry : found) splits.push_back(std::get<2>(entry));
  }
  std::stable_sort(splits.begin(), splits.end(), [](const Split& a, const Split& b) {
    return std::tie(a.score, a.left_length, a.right_length) >
           std::tie(b.score, b.left_length, b.right_length);
  });
  std::vector<Merge> merges;
  merges.reserve(splits.size());
  for (const Split& split : splits) merges.emplace_back(split.left, split.right);
  return merges;
}

}  // namespace kv8::io
