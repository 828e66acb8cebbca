// Where an element of the paged KV cache lies: the only place that computes such offsets.
//
// A layer owns two allocations of `num_pages` pages. A page holds `kPageTokens` tokens of every KV
// head of that layer:
//
//   K: [page][kv_head][token][head_dim]
//   V: [page][kv_head][head_dim][token position]
//
// V is stored with tokens contiguous because an 8-bit tensor-core product contracts along
// contiguous elements. For one-byte elements the tokens of each group of 16 are permuted as well:
// position 4q + i holds token 2q + i for i < 2 and token 8 + 2q + (i - 2) for i >= 2 (q = 0..3).
// A thread of a warp holds exactly those four columns of a score fragment, so that probabilities
// become the next product's 8-bit operand without a shuffle. Two-byte elements keep the tokens'
// own order, which is what the 16-bit fragment wants.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kv8 {

inline constexpr int kPageTokens = 64;

/// Position within a group of 16 at which V stores token `token` of the group (0..15).
constexpr int v_group_position(int token, int elem_bytes) {
  if (elem_bytes != 1) return token;
  const int q = (token & 7) >> 1;
  return 4 * q + (token & 1) + (token >= 8 ? 2 : 0);
}

/// The token (0..15) that lies at `position` of a group: the inverse of v_group_position.
constexpr int v_group_token(int position, int elem_bytes) {
  if (elem_bytes != 1) return position;
  const int q = position >> 2, i = position & 3;
  return 2 * q + (i & 1) + (i >= 2 ? 8 : 0);
}

/// Geometry of one layer's pages. Offsets are in elements from the start of the K or V allocation.
struct KvLayout {
  int num_kv_heads = 0;
  int head_dim = 0;
  int elem_bytes = 1;  ///< 1: FP8 E4M3, 2: FP16

  /// Elements of one page in K, and as many in V.
  constexpr std::int64_t page_elements() const {
    return std::int64_t{kPageTokens} * num_kv_heads * head_dim;
  }
  /// Start of a page's block of one head, in K and in V alike.
  constexpr std::int64_t head_offset(std::int64_t page, int kv_head) const {
    return page * page_elements() + std::int64_t{kv_head} * kPageTokens * head_dim;
  }
  /// `token` counts within the page (0..63).
  constexpr std::int64_t k_offset(std::int64_t page, int kv_head, int token, int dim) const {
    return head_offset(page, kv_head) + std::int64_t{token} * head_dim + dim;
  }
  constexpr std::int64_t v_offset(std::int64_t page, int kv_head, int token, int dim) const {
    const int position = (token & ~15) + v_group_position(token & 15, elem_bytes);
    return head_offset(page, kv_head) + std::int64_t{dim} * kPageTokens + position;
  }
  /// Bytes that one token takes in K and V of this layer together.
  constexpr std::int64_t bytes_per_token() const {
    return std::int64_t{2} * num_kv_heads * head_dim * elem_bytes;
  }
};

/// Pages that `tokens` tokens need.
constexpr std::int64_t pages_for_tokens(std::int64_t tokens) {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

}  // namespace kv8
