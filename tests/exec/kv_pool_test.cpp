#include "exec/kv_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

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

/// kPageTokens tokens that begin with `first`.
std::vector<std::int32_t> page_of(std::int32_t first) {
  std::vector<std::int32_t> tokens(kPageTokens);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

PageTokens page_view(const std::vector<std::int32_t>& tokens, std::size_t page = 0) {
  return std::span<const std::int32_t>(tokens).subspan(page * kPageTokens).first<kPageTokens>();
}

TEST(KvPool, FindsFullPagesByTheWholeTextBeforeThem) {
  KvPool pool(4);
  const auto one = page_of(1), two = page_of(2);
  const std::int32_t a = pool.take().value(), b = pool.take().value();
  pool.index(a, kNoPage, page_view(one));
  pool.index(b, a, page_view(two));
  EXPECT_EQ(pool.find(kNoPage, page_view(one)), a);
  EXPECT_EQ(pool.find(a, page_view(two)), b);
  EXPECT_EQ(pool.find(kNoPage, page_view(two)), kNoPage);
  EXPECT_EQ(pool.find(b, page_view(two)), kNoPage);
  auto almost = one;
  almost.back() += 1;
  EXPECT_EQ(pool.find(kNoPage, page_view(almost)), kNoPage);
  const std::int32_t c = pool.take().value();
  EXPECT_THROW(pool.index(c, kNoPage, page_view(one)), ContractError);
}

TEST(KvPool, ReleasedPagesStayUntilTheirMemoryIsWanted) {
  KvPool pool(3);
  const auto one = page_of(1), two = page_of(2), three = page_of(3);
  const std::int32_t a = pool.take().value(), b = pool.take().value(), c = pool.take().value();
  pool.index(a, kNoPage, page_view(one));
  pool.index(b, a, page_view(two));
  pool.index(c, kNoPage, page_view(three));
  pool.release(b);
  pool.release(a);
  pool.release(c);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.num_cached(), 3);
  // A use makes a page the last to go.
  pool.add_reference(a);
  EXPECT_EQ(pool.num_available(), 2);
  pool.release(a);
  EXPECT_EQ(pool.take().value(), b);
  EXPECT_EQ(pool.find(a, page_view(two)), kNoPage);
  EXPECT_EQ(pool.find(kNoPage, page_view(one)), a);
  EXPECT_EQ(pool.take().value(), c);
  EXPECT_EQ(pool.take().value(), a);
  EXPECT_FALSE(pool.take().ok());
}

TEST(KvPool, ParentsAreNotReleasedBeforeChildren) {
  KvPool pool(2);
  const auto one = page_of(1), two = page_of(2);
  const std::int32_t a = pool.take().value(), b = pool.take().value();
  pool.index(a, kNoPage, page_view(one));
  pool.index(b, a, page_view(two));
  pool.release(a);
  pool.release(b);
  EXPECT_THROW((void)pool.take(), ContractError);
}

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

TEST(Sequence, ReusesTheLongestChainAndLeavesATokenToRun) {
  KvPool pool(8);
  std::vector<std::int32_t> text(200);
  std::iota(text.begin(), text.end(), 7);
  Sequence first(pool);
  first.reserve(200).value();
  first.advance(200);
  first.index(text);

  Sequence same(pool);
  EXPECT_EQ(same.reuse(text), 192);
  EXPECT_EQ(same.length(), 192);
  EXPECT_EQ(same.pages()[2], first.pages()[2]);
  EXPECT_EQ(pool.references(first.pages()[0]), 2);
  EXPECT_EQ(same.reuse(text), 0);

  Sequence whole_pages(pool);
  EXPECT_EQ(whole_pages.reuse(std::span(text).first(128)), 64);
  auto other = text;
  other[100] = 0;
  Sequence differs(pool);
  EXPECT_EQ(differs.reuse(other), 64);
  const std::vector<std::int32_t> shown = first.pages();
  first.clear();
  same.clear();
  whole_pages.clear();
  EXPECT_EQ(pool.num_cached(), 2);  // the first page is still held
  EXPECT_EQ(pool.references(shown[0]), 1);
}

TEST(Sequence, TwoThatComputedTheSameTextEndUpWithTheSamePages) {
  KvPool pool(8);
  std::vector<std::int32_t> text(130);
  std::iota(text.begin(), text.end(), 3);
  Sequence a(pool), b(pool);
  for (Sequence* sequence : {&a, &b}) {
    sequence->reserve(130).value();
    sequence->advance(130);
  }
  EXPECT_EQ(pool.num_free(), 2);
  a.index(text);
  b.index(text);
  EXPECT_EQ(pool.num_free(), 4);
  EXPECT_EQ(a.pages()[1], b.pages()[1]);
  EXPECT_NE(a.pages()[2], b.pages()[2]);
}

TEST(Sequence, ReuseReplacesReservedPages) {
  KvPool pool(6);
  std::vector<std::int32_t> text(150);
  std::iota(text.begin(), text.end(), 3);
  Sequence early(pool), late(pool);
  late.reserve(150).value();  // admitted before `early` has computed anything
  early.reserve(150).value();
  early.advance(150);
  early.index(text);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(late.reuse(text), 128);
  EXPECT_EQ(late.pages().size(), 3u);
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(Sequence, APrefixOutlivesItsSequence) {
  KvPool pool(3);
  std::vector<std::int32_t> text(190, 5);
  Sequence sequence(pool);
  sequence.reserve(190).value();
  sequence.advance(190);
  sequence.index(text);
  Sequence kept = sequence.prefix(1);
  sequence.clear();
  EXPECT_EQ(kept.length(), 64);
  pool.drop_cached();
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(sequence.reuse(text), 64);
}

/// Sequences over texts that often begin alike. Every token slot of the pages holds a number that
/// stands for the whole text up to it, so that a page of other content is noticed.
class RandomPlay {
 public:
  explicit RandomPlay(unsigned seed) : random_(seed) {}

  void play(int moves) {
    for (int i = 0; i < moves; ++i) {
      switch (roll(8)) {
        case 0:
        case 1:
          begin();
          break;
        case 2:
          if (!sequences_.empty()) drop(roll(static_cast<int>(sequences_.size())));
          break;
        case 3:
          if (sequences_.size() > 1) move_over();
          break;
        default:
          if (!sequences_.empty()) append(pick());
      }
      check();
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GT(refused_, 0) << "the pool was never full";
    EXPECT_GT(reused_, 0);
    sequences_.clear();
    EXPECT_EQ(pool_.num_available(), kPages);
    pool_.drop_cached();
    EXPECT_EQ(pool_.num_free(), kPages);
  }

 private:
  static constexpr std::int32_t kPages = 23;
  struct Tracked {
    Sequence sequence;
    std::vector<std::int32_t> text;  // all written, but the last of a new one
  };

  int roll(int sides) { return static_cast<int>(random_() % static_cast<unsigned>(sides)); }
  Tracked& pick() {
    return sequences_[static_cast<std::size_t>(roll(static_cast<int>(sequences_.size())))];
  }
  std::int64_t& at(const Sequence& sequence, std::int32_t token) {
    const std::int32_t page = sequence.pages()[static_cast<std::size_t>(token / kPageTokens)];
    return numbers_[static_cast<std::size_t>(page)][static_cast<std::size_t>(token % kPageTokens)];
  }
  static std::int64_t step(std::int64_t before, std::int32_t token) {
    return (before * 1000003 + token + 1) % 1000000007;
  }
  /// Few different tokens at page boundaries only: long common beginnings, many branches.
  void extend(std::vector<std::int32_t>& text, int tokens) {
    for (int i = 0; i < tokens; ++i) text.push_back(text.size() % kPageTokens == 9 ? roll(3) : 1);
  }
  void begin() {
    Tracked tracked{Sequence(pool_), {}};
    extend(tracked.text, 1 + roll(200));
    reused_ += tracked.sequence.reuse(tracked.text);
    write(tracked);
    if (tracked.sequence.length() > 0) sequences_.push_back(std::move(tracked));
  }
  void append(Tracked& tracked) {
    extend(tracked.text, 1 + roll(roll(3) == 0 ? 150 : 20));
    write(tracked);
  }
  /// Writes what is missing, or forgets it.
  void write(Tracked& tracked) {
    Sequence& sequence = tracked.sequence;
    const auto tokens = static_cast<std::int32_t>(tracked.text.size()) - sequence.length();
    const std::int32_t available = pool_.num_available();
    if (const Status status = sequence.reserve(tokens); !status.ok()) {
      ++refused_;
      EXPECT_EQ(pool_.num_available(), available);
      tracked.text.resize(static_cast<std::size_t>(sequence.length()));
      return;
    }
    std::int64_t number = sequence.length() == 0 ? 0 : at(sequence, sequence.length() - 1);
    for (std::int32_t i = sequence.length(); i < sequence.length() + tokens; ++i) {
      number = at(sequence, i) = step(number, tracked.text[static_cast<std::size_t>(i)]);
    }
    sequence.advance(tokens);
    sequence.index(tracked.text);
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
      ASSERT_EQ(static_cast<std::size_t>(tracked.sequence.length()), tracked.text.size());
      std::int64_t number = 0;
      for (std::int32_t i = 0; i < tracked.sequence.length(); ++i) {
        number = step(number, tracked.text[static_cast<std::size_t>(i)]);
        ASSERT_EQ(at(tracked.sequence, i), number);
      }
      for (const std::int32_t page : tracked.sequence.pages()) {
        ++counted[static_cast<std::size_t>(page)];
      }
    }
    for (std::int32_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(pool_.references(page), counted[static_cast<std::size_t>(page)]);
    }
    ASSERT_EQ(pool_.num_available(), std::ranges::count(counted, 0));
  }

  std::mt19937 random_;
  KvPool pool_{kPages};
  std::array<std::array<std::int64_t, kPageTokens>, kPages> numbers_ = {};
  std::vector<Tracked> sequences_;
  int refused_ = 0, reused_ = 0;
};

TEST(Sequence, RandomReuseAndReleasesKeepEveryToken) {
  for (unsigned seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    RandomPlay(seed).play(1500);
  }
}

}  // namespace
}  // namespace kv8::exec
