#include "cuda/engine/batch_image.h"

#include <gtest/gtest.h>

#include <array>

namespace kv8::cuda_engine {
namespace {

std::vector<std::int32_t> part(const BatchImage& image, std::size_t from, std::size_t count) {
  const auto first = image.control.begin() + static_cast<std::ptrdiff_t>(from);
  return {first, first + static_cast<std::ptrdiff_t>(count)};
}
using Ints = std::vector<std::int32_t>;

TEST(BatchImage, PutsSequencesOfOneTokenFirst) {
  const std::array<std::int32_t, 3> table = {4, 5, 6};
  const std::vector<std::int32_t> ids = {10, 11, 12, 20, 30, 31, 40};
  const std::vector<SequenceSlice> slices = {{0, 3, 0, table.data()},
                                             {3, 1, 70, table.data()},
                                             {4, 0, 5, table.data()},
                                             {4, 2, 64, table.data()},
                                             {6, 1, 3, table.data()}};
  const std::vector<std::int32_t> wanted = {2, 3, 5, 6};
  const BatchImage image = make_batch_image({ids, slices, wanted}, RowOrder::kDecodeFirst);
  const StepShape& shape = image.shape;
  EXPECT_EQ(shape.rows, 7);
  EXPECT_EQ(shape.decode_sequences, 2);
  EXPECT_EQ(shape.prefill_sequences, 2);
  EXPECT_EQ(shape.max_q_len, 3);
  EXPECT_EQ(shape.max_kv_len, 66);
  EXPECT_FALSE(is_plain_decode(shape));
  const ControlOffsets at(shape);
  EXPECT_EQ(part(image, at.ids, 7), (Ints{20, 40, 10, 11, 12, 30, 31}));
  EXPECT_EQ(part(image, at.cu_rows, 5), (Ints{0, 1, 2, 5, 7}));
  EXPECT_EQ(part(image, at.prefill_cu, 3), (Ints{0, 3, 5}));
  EXPECT_EQ(part(image, at.kv_lens, 4), (Ints{71, 4, 3, 66}));
  EXPECT_EQ(part(image, at.logits_rows, 4), (Ints{4, 0, 6, 1}));
  EXPECT_EQ(image.num_pages, (Ints{2, 1, 1, 2}));
  EXPECT_LE(at.total, max_control_words(7, 5, 4));
}

TEST(BatchImage, KeepsTheCallersOrderForTaps) {
  const std::array<std::int32_t, 2> table = {0, 1};
  const std::vector<std::int32_t> ids = {1, 2, 3};
  const std::vector<SequenceSlice> slices = {{0, 2, 0, table.data()}, {2, 1, 9, table.data()}};
  const std::vector<std::int32_t> all = {0, 1, 2};
  const BatchImage image = make_batch_image({ids, slices, all}, RowOrder::kAsGiven);
  EXPECT_EQ(image.shape.decode_sequences, 0);
  EXPECT_EQ(image.shape.prefill_sequences, 2);
  EXPECT_TRUE(image.shape.all_rows);
  EXPECT_EQ(part(image, ControlOffsets(image.shape).ids, 3), (Ints{1, 2, 3}));
}

TEST(BatchImage, PadsWithSequencesOfOneTokenOnTheScratchPage) {
  const std::array<std::int32_t, 1> table = {3};
  const std::int32_t scratch = 99;
  const std::vector<std::int32_t> ids = {7, 8, 9};
  const std::vector<SequenceSlice> slices = {
      {0, 1, 10, table.data()}, {1, 1, 20, table.data()}, {2, 1, 30, table.data()}};
  const std::vector<std::int32_t> all = {0, 1, 2};
  BatchImage image = make_batch_image({ids, slices, all}, RowOrder::kDecodeFirst);
  ASSERT_TRUE(is_plain_decode(image.shape));
  pad_decode_batch(image, 4, &scratch);
  const ControlOffsets at(image.shape);
  EXPECT_EQ(image.shape.rows, 4);
  EXPECT_EQ(part(image, at.ids, 4), (Ints{7, 8, 9, 0}));
  EXPECT_EQ(part(image, at.cu_rows, 5), (Ints{0, 1, 2, 3, 4}));
  EXPECT_EQ(part(image, at.kv_lens, 4), (Ints{11, 21, 31, 1}));
  EXPECT_EQ(*image.page_tables[3], scratch);
}

TEST(BatchImage, BucketsHoldWhatTheyAreFor) {
  int last = 0, distinct = 0;
  for (int n = 1; n <= 1024; ++n) {
    const int bucket = decode_bucket(n);
    EXPECT_GE(bucket, n);
    EXPECT_GE(bucket, last);
    EXPECT_EQ(decode_bucket(bucket), bucket);
    distinct += bucket != last;
    last = bucket;
  }
  EXPECT_LE(distinct, 32);
}

}  // namespace
}  // namespace kv8::cuda_engine
