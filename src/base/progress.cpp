#include "base/progress.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace kv8 {
namespace {

std::atomic<bool> g_interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int signal) {
  if (g_interrupted.exchange(true)) ::_exit(128 + signal);
}

}  // namespace

bool interrupted() { return g_interrupted.load(std::memory_order_relaxed); }
void set_interrupted(bool value) { g_interrupted = value; }

void install_interrupt_handler() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace kv8
