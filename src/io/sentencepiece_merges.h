// BPE merges of a SentencePiece vocabulary, which stores scores instead.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kv8::io {

using Merge = std::pair<std::string, std::string>;

struct ScoredPiece {
  std::string_view text;  ///< UTF-8
  double score = 0.0;
  std::int32_t id = 0;
};

/// Every way to split a piece into two pieces, best score of the whole first (SentencePiece joins
/// the neighbours that make the piece of the highest score). Ties: longer left, then longer right
/// part in characters, then order of the pieces, then ids of left and right, as transformers'
/// conversion has it. `pieces` are ordered by id.
std::vector<Merge> merges_from_scores(const std::vector<ScoredPiece>& pieces);

}  // namespace kv8::io
