#include "apps/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace kv8::apps {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  return fmt::format("{}:{:02} min", whole / 60, whole % 60);
}

constexpr int kBarWidth = 30;

}  // namespace

Terminal::Terminal(std::string command)
    : command_(std::move(command)), is_terminal_(::isatty(STDERR_FILENO) != 0) {}

Reporter Terminal::reporter() {
  return {[this](LogLevel level, std::string_view line) { print_line(level, line); }, this};
}

void Terminal::print_line(LogLevel level, std::string_view line) {
  if (bar_shown_) fmt::print(stderr, "\r\x1b[K");
  fmt::print(stderr, "kv8: {}{}\n", level == LogLevel::kWarning ? "warning: " : "", line);
  if (bar_shown_) draw(done_, false);
}

void Terminal::begin(std::string_view label, std::int64_t total, std::string_view unit) {
  label_ = label;
  unit_ = unit;
  total_ = total;
  done_ = 0;
  next_report_ = std::max<std::int64_t>(1, total / 10);
  start_ = Clock::now();
  last_drawn_ = is_terminal_ ? Clock::time_point{} : start_;
  advance(0);
}

void Terminal::advance(std::int64_t done) {
  done_ = done;
  if (is_terminal_) {
    if (done < total_ && seconds_since(last_drawn_) < 0.1) return;
    draw(done, false);
  } else if (done >= next_report_ && (done >= total_ || seconds_since(last_drawn_) > 2.0)) {
    last_drawn_ = Clock::now();
    fmt::print(stderr, "kv8: {}: {}/{} {} ({})\n", label_, done, total_, unit_,
               duration_text(seconds_since(start_)));
    next_report_ = done + std::max<std::int64_t>(1, total_ / 10);
  }
}

void Terminal::end() {
  if (is_terminal_ && bar_shown_) draw(done_, true);
  bar_shown_ = false;
}

void Terminal::draw(std::int64_t done, bool last) {
  last_drawn_ = Clock::now();
  const double fraction =
      total_ > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0)
                 : 1.0;
  const double elapsed = seconds_since(start_);
  const int filled = static_cast<int>(fraction * kBarWidth);
  const std::string time =
      last || fraction == 0.0
          ? duration_text(elapsed)
          : fmt::format("{} left", duration_text(elapsed * (1.0 - fraction) / fraction));
  fmt::print(stderr, "\r\x1b[K{} [{:#>{}}{:.>{}}] {}/{} {}, {}{}", label_, "", filled, "",
             kBarWidth - filled, done, total_, unit_, time, last ? "\n" : "");
  std::fflush(stderr);
  bar_shown_ = !last;
}

}  // namespace kv8::apps
