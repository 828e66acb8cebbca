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

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

struct ThreadPool::State {
  int num_threads = 1;
  std::vector<std::thread> workers;
  const std::function<void(int)>* job = nullptr;
  std::atomic<std::uint64_t> generation{0};
  std::atomic<int> running{0};
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

  void wait_for_work(std::uint64_t seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      pause_briefly();
    }
    std::unique_lock lock(mutex);
    ++sleeping;
    wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
    --sleeping;
  }

  void work(int worker) {
    std::uint64_t seen = 0;
    for (;;) {
      wait_for_work(seen);
      ++seen;
      if (stopping.load(std::memory_order_acquire)) return;
      call(worker);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void announce() {
    const std::lock_guard lock(mutex);
    generation.fetch_add(1, std::memory_order_release);
    if (sleeping > 0) wake.notify_all();
  }

  void run(const std::function<void(int)>& body) {
    if (num_threads == 1) {
      body(0);
      return;
    }
    job = &body;
    running.store(num_threads - 1, std::memory_order_relaxed);
    announce();
    call(0);
    while (running.load(std::memory_order_acquire) != 0) pause_briefly();
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  if (num_threads <= 0) num_threads = static_cast<int>(std::thread::hardware_concurrency());
  state_->num_threads = std::max(1, num_threads);
  for (int worker = 1; worker < state_->num_threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_release);
  state_->announce();
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
  state_->run([&](int worker) {
    const std::int64_t begin = std::min(count, blocks * worker / threads * grain);
    const std::int64_t end = std::min(count, blocks * (worker + 1) / threads * grain);
    if (begin < end) body(begin, end, worker);
  });
}

void ThreadPool::parallel_tasks(std::int64_t count,
                                const std::function<void(std::int64_t, int)>& body) {
  if (count <= 0) return;
  std::atomic<std::int64_t> next{0};
  state_->run([&](int worker) {
    for (std::int64_t index = next++; index < count; index = next++) body(index, worker);
  });
}

}  // namespace kv8
