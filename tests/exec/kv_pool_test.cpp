#include "exec/kv_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <random>
#include <set>

#include "exec/sequence.h"

namespace kv8::exec {
namespace {

TEST(KvPool, HandsOutEveryPageOnce) {
  KvPool pool(5);
  std::set<std::int32_t> pages;
  for (int i = 0; i < 5; ++i) pages.insert(pool.take().value());
  EXPECT_EQ(pages, (std::set<std::int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.num_free(), 0);
  const auto none = pool.take();
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kCapacity);
  pool.release(3);
  EXPECT_EQ(pool.take().value(), 3);
}

TEST(KvPool, CountsReferences) {
  KvPool pool(2);
  const std::int32_t page = pool.take().value();
  pool.add_reference(page);
  pool.release(page);
  EXPECT_EQ(pool.references(page), 1);
  EXPECT_EQ(pool.num_free(), 1);
  pool.release(page);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_THROW(pool.release(page), ContractError);
  EXPECT_THROW(pool.add_reference(page), ContractError);
  EXPECT_THROW(pool.references(2), ContractError);
}

/// Remembers one number per token slot instead of K and V.
class NumberBackend : public Backend {
 public:
  explicit NumberBackend(std::int32_t pages) : numbers(static_cast<std::size_t>(pages)) {
    for (auto& page : numbers) page.fill(-1);
  }
  Status run(const Batch&, TapSink*) override { return {}; }
  Status read_logits(std::span<float>) override { return {}; }
  Status sample(std::span<const SampleRow>, std::span<SampledToken>) override { return {}; }
  Status copy_page(std::int32_t from, std::int32_t to) override {
    if (refuse_copies) return io_error("no copies today");
    numbers[static_cast<std::size_t>(to)] = numbers[static_cast<std::size_t>(from)];
    return {};
  }
  std::int64_t max_rows() const override { return 1; }
  std::int32_t num_pages() const override { return static_cast<std::int32_t>(numbers.size()); }
  std::string_view name() const override { return "numbers"; }

  int& at(const Sequence& sequence, std::int32_t token) {
    const std::int32_t page = sequence.pages()[static_cast<std::size_t>(token / kPageTokens)];
    return numbers[static_cast<std::size_t>(page)][static_cast<std::size_t>(token % kPageTokens)];
  }

  std::vector<std::array<int, kPageTokens>> numbers;
  bool refuse_copies = false;
};

TEST(Sequence, ReserveTakesAllOrNothing) {
  KvPool pool(3);
  Sequence sequence(pool);
  ASSERT_TRUE(sequence.reserve(65).ok());
  EXPECT_EQ(sequence.pages().size(), 2u);
  EXPECT_EQ(sequence.length(), 0);
  sequence.advance(65);
  const Status refused = sequence.reserve(128);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kCapacity);
  EXPECT_EQ(sequence.pages().size(), 2u);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_FALSE(sequence.reserve(std::numeric_limits<std::int32_t>::max()).ok());
  EXPECT_THROW(sequence.advance(64), ContractError);
  ASSERT_TRUE(sequence.reserve(127).ok());
  EXPECT_EQ(pool.num_free(), 0);
}

TEST(Sequence, ForkSharesFullPagesAndCopiesTheLast) {
  KvPool pool(8);
  NumberBackend backend(8);
  Sequence parent(pool);
  ASSERT_TRUE(parent.reserve(130).ok());
  for (int i = 0; i < 130; ++i) backend.at(parent, i) = i;
  parent.advance(130);
  Sequence child = parent.fork(backend).value();
  EXPECT_EQ(child.length(), 130);
  EXPECT_EQ(child.pages()[0], parent.pages()[0]);
  EXPECT_EQ(child.pages()[1], parent.pages()[1]);
  EXPECT_NE(child.pages()[2], parent.pages()[2]);
  EXPECT_EQ(pool.references(child.pages()[0]), 2);
  EXPECT_EQ(backend.at(child, 129), 129);
  parent.clear();
  EXPECT_EQ(pool.references(child.pages()[0]), 1);
  EXPECT_EQ(pool.num_free(), 5);
}

TEST(Sequence, FailedForkGivesItsPagesBack) {
  KvPool pool(3);
  NumberBackend backend(3);
  Sequence parent(pool);
  ASSERT_TRUE(parent.reserve(70).ok());
  parent.advance(70);
  backend.refuse_copies = true;
  EXPECT_FALSE(parent.fork(backend).ok());
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.references(parent.pages()[0]), 1);
  const std::int32_t last = pool.take().value();
  const auto full = parent.fork(backend);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().code, ErrorCode::kCapacity);
  EXPECT_EQ(pool.references(parent.pages()[0]), 1);
  pool.release(last);
}

/// A sequence and what its tokens must be.
struct Tracked {
  Sequence sequence;
  std::vector<int> expected;
};

class RandomPlay {
 public:
  explicit RandomPlay(unsigned seed) : random_(seed) {}

  void play(int moves) {
    for (int i = 0; i < moves; ++i) {
      switch (roll(8)) {
        case 0:
          sequences_.push_back({Sequence(pool_), {}});
          break;
        case 1:
        case 2:
          if (!sequences_.empty()) fork(pick());
          break;
        case 3:
          if (!sequences_.empty()) drop(roll(static_cast<int>(sequences_.size())));
          break;
        case 4:
          if (sequences_.size() > 1) move_over();
          break;
        default:
          if (!sequences_.empty()) append(pick());
      }
      check();
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GT(refused_, 0) << "the pool was never full";
    sequences_.clear();
    EXPECT_EQ(pool_.num_free(), kPages);
  }

 private:
  static constexpr std::int32_t kPages = 23;

  int roll(int sides) { return static_cast<int>(random_() % static_cast<unsigned>(sides)); }
  Tracked& pick() {
    return sequences_[static_cast<std::size_t>(roll(static_cast<int>(sequences_.size())))];
  }
  void append(Tracked& tracked) {
    const int tokens = 1 + roll(roll(3) == 0 ? 150 : 20);
    const std::int32_t free = pool_.num_free();
    if (const Status status = tracked.sequence.reserve(tokens); !status.ok()) {
      ++refused_;
      EXPECT_EQ(pool_.num_free(), free);
      return;
    }
    for (int i = 0; i < tokens; ++i) {
      tracked.expected.push_back(++next_number_);
      backend_.at(tracked.sequence, tracked.sequence.length() + i) = next_number_;
    }
    tracked.sequence.advance(tokens);
  }
  void fork(const Tracked& tracked) {
    Result<Sequence> child = tracked.sequence.fork(backend_);
    if (!child.ok()) {
      ++refused_;
      return;
    }
    std::vector<int> expected = tracked.expected;
    sequences_.push_back({std::move(child).value(), std::move(expected)});
  }
  void drop(int index) { sequences_.erase(sequences_.begin() + index); }
  void move_over() {
    Tracked taken = std::move(sequences_.back());
    sequences_.pop_back();
    pick() = std::move(taken);
  }
  void check() {
    std::vector<std::int32_t> counted(kPages, 0);
    for (const Tracked& tracked : sequences_) {
      ASSERT_EQ(static_cast<std::size_t>(tracked.sequence.length()), tracked.expected.size());
      for (std::int32_t i = 0; i < tracked.sequence.length(); ++i) {
        ASSERT_EQ(backend_.at(tracked.sequence, i), tracked.expected[static_cast<std::size_t>(i)]);
      }
      for (const std::int32_t page : tracked.sequence.pages()) {
        ++counted[static_cast<std::size_t>(page)];
      }
    }
    for (std::int32_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(pool_.references(page), counted[static_cast<std::size_t>(page)]);
    }
    ASSERT_EQ(pool_.num_free(), std::ranges::count(counted, 0));
  }

  std::mt19937 random_;
  KvPool pool_{kPages};
  NumberBackend backend_{kPages};
  std::vector<Tracked> sequences_;
  int next_number_ = 0, refused_ = 0;
};

TEST(Sequence, RandomTakesForksAndReleasesKeepEveryToken) {
  for (unsigned seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    RandomPlay(seed).play(1500);
  }
}

}  // namespace
}  // namespace kv8::exec
