#include "ops/kv_layout.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace kv8 {
namespace {

TEST(KvLayout, EveryOffsetIsHitExactlyOnce) {
  for (const int elem_bytes : {1, 2}) {
    for (const int heads : {1, 3}) {
      for (const int head_dim : {8, 64, 72}) {
        const KvLayout layout{heads, head_dim, elem_bytes};
        const int pages = 2;
        std::vector<int> k_hits(static_cast<std::size_t>(pages * layout.page_elements()));
        std::vector<int> v_hits(k_hits.size());
        for (int page = 0; page < pages; ++page) {
          for (int head = 0; head < heads; ++head) {
            for (int token = 0; token < kPageTokens; ++token) {
              for (int dim = 0; dim < head_dim; ++dim) {
                ++k_hits.at(static_cast<std::size_t>(layout.k_offset(page, head, token, dim)));
                ++v_hits.at(static_cast<std::size_t>(layout.v_offset(page, head, token, dim)));
              }
            }
          }
        }
        EXPECT_EQ(k_hits, std::vector<int>(k_hits.size(), 1));
        EXPECT_EQ(v_hits, std::vector<int>(v_hits.size(), 1));
      }
    }
  }
}

TEST(KvLayout, TokenOrderAndItsInverse) {
  for (int token = 0; token < 16; ++token) {
    EXPECT_EQ(v_group_token(v_group_position(token, 1), 1), token);
    EXPECT_EQ(v_group_position(token, 2), token);
    EXPECT_EQ(v_group_token(token, 2), token);
  }
  // The thread with columns 2q, 2q + 1, 2q + 8, 2q + 9 of a 16-column fragment has 4q .. 4q + 3.
  const std::vector<int> order = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
  for (int position = 0; position < 16; ++position) {
    EXPECT_EQ(v_group_token(position, 1), order[static_cast<std::size_t>(position)]);
  }
}

TEST(KvLayout, SizesAndOffsets) {
  const KvLayout layout{3, 64, 1};
  EXPECT_EQ(layout.page_elements(), 64 * 3 * 64);
  EXPECT_EQ(layout.bytes_per_token(), 2 * 3 * 64);
  EXPECT_EQ((KvLayout{3, 64, 2}.bytes_per_token()), 2 * layout.bytes_per_token());
  EXPECT_EQ(layout.k_offset(1, 2, 5, 7), 64 * 3 * 64 + 2 * 64 * 64 + 5 * 64 + 7);
  EXPECT_EQ(layout.v_offset(1, 2, 17, 7), 64 * 3 * 64 + 2 * 64 * 64 + 7 * 64 + 17);
  EXPECT_EQ(layout.v_offset(1, 2, 24, 7), 64 * 3 * 64 + 2 * 64 * 64 + 7 * 64 + 18);
  // Beyond 2^31 elements.
  EXPECT_EQ((KvLayout{8, 128, 1}.k_offset(1 << 20, 0, 0, 0)), std::int64_t{1} << 36);
  EXPECT_EQ(pages_for_tokens(0), 0);
  EXPECT_EQ(pages_for_tokens(1), 1);
  EXPECT_EQ(pages_for_tokens(64), 1);
  EXPECT_EQ(pages_for_tokens(65), 2);
}

}  // namespace
}  // namespace kv8
