// A fixed set of threads for data-parallel loops.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace kv8 {

/// `parallel_for` splits [0, count) into one contiguous range per thread; whichever thread is free
/// takes the next range. The caller's thread is worker 0. Workers spin briefly between loops (a
/// decode step is hundreds of short loops), then sleep.
class ThreadPool {
 public:
  /// `num_threads` <= 0 takes the hardware's count.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  /// Calls `body(begin, end, worker)` once per range and waits for all.
  /// `grain`: ranges other than the last are multiples of it. Exceptions in `body` are rethrown.
  void parallel_for(std::int64_t count, std::int64_t grain,
                    const std::function<void(std::int64_t, std::int64_t, int)>& body);
  /// Like parallel_for, but each thread goes through its range in a few pieces, in order, and then
  /// helps with the pieces that others have left. For streams through memory: each thread reads on
  /// where it was, and one that was interrupted does not hold up the rest.
  void parallel_streams(std::int64_t count, std::int64_t grain,
                        const std::function<void(std::int64_t, std::int64_t, int)>& body);
  /// Calls `body(index, worker)` once per index, handed out one at a time (uneven work).
  void parallel_tasks(std::int64_t count, const std::function<void(std::int64_t, int)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kv8
