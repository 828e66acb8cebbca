#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace kv8 {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return bad_input("{} is odd", value);
  return value / 2;
}
Result<int> quarter(int value) {
  const int once = KV8_TRY(half(value));
  return KV8_TRY(half(once));
}

TEST(Result, TryTakesTheValueOrReturnsTheError) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_EQ(quarter(6).error().within("file").message, "file: 3 is odd");
}

TEST(Result, TheValueOfAnErrorIsABrokenContract) {
  EXPECT_THROW((void)half(1).value(), ContractError);
  EXPECT_THROW(KV8_CHECK(1 > 2, "{} and {}", 1, 2), ContractError);
}

TEST(Sha256, KnownDigests) {  // FIPS 180-2, appendix B
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 pieces;
  pieces.update("a");
  pieces.update("bc");
  EXPECT_EQ(pieces.hex(), sha256_hex("abc"));
}

TEST(ThreadPool, CoversEveryIndexOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {0, 1, 7, 64, 1000}) {
      for (const std::int64_t grain : {1, 16}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        pool.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
          EXPECT_LT(worker, threads);
          EXPECT_EQ(begin % grain, 0);
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        pool.parallel_tasks(count,
                            [&](std::int64_t i, int) { ++seen[static_cast<std::size_t>(i)]; });
        pool.parallel_streams(count, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
          EXPECT_LT(worker, threads);
          EXPECT_EQ(begin % grain, 0);
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        for (const auto& times : seen) EXPECT_EQ(times, 3);
      }
    }
  }
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.parallel_tasks(10,
                                   [](std::int64_t i, int) {
                                     if (i == 7) throw std::runtime_error("seven");
                                   }),
               std::runtime_error);
  std::atomic<int> sum{0};
  for (int round = 0; round < 2000; ++round) {
    pool.parallel_for(3, 1, [&](std::int64_t begin, std::int64_t end, int) {
      sum += static_cast<int>(end - begin);
    });
  }
  EXPECT_EQ(sum, 6000);
}

/// A worker may come to a loop just as it ends; it must not run a body that is gone.
TEST(ThreadPool, LateWorkersLeaveEndedLoopsAlone) {
  ThreadPool pool(3);
  std::atomic<int> running{-1};
  for (int round = 0; round < 300000; ++round) {
    running.store(round);
    pool.parallel_for(2, 1, [&running, round](std::int64_t, std::int64_t, int) {
      if (running.load() != round) ADD_FAILURE() << "round " << round;
    });
  }
}

}  // namespace
}  // namespace kv8
