#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace kv8 {
namespace {

/// How often a waiting thread looks before it sleeps: some tens of microseconds, more than the gap
/// between two loops of a decode step.
constexpr int kSpins = 20000;

/// Pieces of a thread's part of parallel_streams, for others to help with. Four made a decode step
/// 3% slower than two.
constexpr std::int64_t kPiecesOfStream = 2;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

/// A job is open to the workers from `run`'s start until the caller has found no work left; it then
/// waits only for workers that have joined. A worker that the system keeps off its core for a while
/// therefore delays nobody.
struct ThreadPool::State {
  /// Which piece of a thread's part comes next; on a cache line of its own.
  struct alignas(64) Stream {
    std::atomic<std::int64_t> next{0};
  };

  int num_threads = 1;
  std::vector<Stream> streams;  // one a thread
  std::vector<std::thread> workers;
  const std::function<void(int)>* job = nullptr;
  std::atomic<std::uint64_t> ticket{0};  // number of the job * 2 + whether it is open
  std::atomic<int> joined{0};            // workers inside the job
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable wake;
  int sleeping = 0;  // guarded by mutex
  std::exception_ptr failure;
  std::mutex failure_mutex;

  void call(int worker) {
    try {
      (*job)(worker);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  /// The ticket of an open job other than `seen`, or any ticket when the pool stops. It is the one
  /// that was found open: a second look might find it closed, and its job gone.
  std::uint64_t wait_for_work(std::uint64_t seen) {
    std::uint64_t found = seen;
    const auto ready = [&] {
      found = ticket.load();
      return (found != seen && (found & 1) != 0) || stopping.load();
    };
    for (int spin = 0; spin < kSpins; ++spin) {
      if (ready()) return found;
      pause_briefly();
    }
    std::unique_lock lock(mutex);
    ++sleeping;
    wake.wait(lock, ready);
    --sleeping;
    return found;
  }

  void work(int worker) {
    std::uint64_t seen = 0;
    for (;;) {
      seen = wait_for_work(seen);
      if (stopping.load()) return;
      // Joining comes before looking again, closing before counting: one of the two sees the other.
      joined.fetch_add(1);
      if (ticket.load() == seen) call(worker);
      joined.fetch_sub(1);
    }
  }

  void announce(std::uint64_t new_ticket) {
    const std::lock_guard lock(mutex);
    ticket.store(new_ticket);
    if (sleeping > 0) wake.notify_all();
  }

  void run(const std::function<void(int)>& body) {
    job = &body;
    const std::uint64_t open = (ticket.load() | 1) + 2;
    announce(open);
    call(0);
    ticket.store(open - 1);
    for (int spin = 0; joined.load() != 0; ++spin) {
      if (spin < kSpins) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  if (num_threads <= 0) num_threads = static_cast<int>(std::thread::hardware_concurrency());
  state_->num_threads = std::max(1, num_threads);
  state_->streams = std::vector<State::Stream>(static_cast<std::size_t>(state_->num_threads));
  for (int worker = 1; worker < state_->num_threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true);
  state_->announce(state_->ticket.load());
  for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::parallel_for(std::int64_t count, std::int64_t grain,
                              const std::function<void(std::int64_t, std::int64_t, int)>& body) {
  if (count <= 0) return;
  const std::int64_t threads = state_->num_threads;
  const std::int64_t blocks = (count + grain - 1) / grain;
  if (threads == 1 || blocks == 1) {
    body(0, count, 0);
    return;
  }
  const std::int64_t ranges = std::min(threads, blocks);
  parallel_tasks(ranges, [&](std::int64_t range, int worker) {
    const std::int64_t begin = std::min(count, blocks * range / ranges * grain);
    const std::int64_t end = std::min(count, blocks * (range + 1) / ranges * grain);
    body(begin, end, worker);
  });
}

void ThreadPool::parallel_streams(
    std::int64_t count, std::int64_t grain,
    const std::function<void(std::int64_t, std::int64_t, int)>& body) {
  if (count <= 0) return;
  const std::int64_t threads = state_->num_threads;
  const std::int64_t blocks = (count + grain - 1) / grain;
  if (threads == 1 || blocks == 1) {
    body(0, count, 0);
    return;
  }
  for (auto& stream : state_->streams) stream.next.store(0);
  state_->run([&](int worker) {
    for (std::int64_t i = 0; i < threads; ++i) {
      const std::int64_t stream = (worker + i) % threads;
      const std::int64_t first = blocks * stream / threads;
      const std::int64_t end = blocks * (stream + 1) / threads;
      const std::int64_t piece = (end - first + kPiecesOfStream - 1) / kPiecesOfStream;
      std::atomic<std::int64_t>& next = state_->streams[static_cast<std::size_t>(stream)].next;
      for (;;) {
        // A look first: once all pieces are taken, the counter's cache line stays with its thread.
        if (first + next.load() * piece >= end) break;
        const std::int64_t begin = first + next++ * piece;
        if (begin >= end) break;
        body(begin * grain, std::min(count, std::min(end, begin + piece) * grain), worker);
      }
    }
  });
}

void ThreadPool::parallel_tasks(std::int64_t count,
                                const std::function<void(std::int64_t, int)>& body) {
  if (count <= 0) return;
  if (state_->num_threads == 1 || count == 1) {
    for (std::int64_t index = 0; index < count; ++index) body(index, 0);
    return;
  }
  std::atomic<std::int64_t> next{0};
  state_->run([&](int worker) {
    for (std::int64_t index = next++; index < count; index = next++) body(index, worker);
  });
}

}  // namespace kv8
