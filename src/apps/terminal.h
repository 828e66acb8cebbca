// What people see: log lines, and a progress bar on a terminal or plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "base/progress.h"

namespace kv8::apps {

/// Prints "kv8: …" lines to standard error, and progress as one redrawn line with an ETA where
/// standard error is a terminal, else as a line every tenth of the way, but at most every 2 s.
class Terminal : public ProgressSink {
 public:
  /// `command`: the command line as typed, for results that say where they come from.
  explicit Terminal(std::string command);
  const std::string& command() const { return command_; }
  Reporter reporter();

  void begin(std::string_view label, std::int64_t total, std::string_view unit) override;
  void advance(std::int64_t done) override;
  void end() override;

 private:
  void print_line(LogLevel level, std::string_view line);
  void draw(std::int64_t done, bool last);

  std::string command_;
  bool is_terminal_;
  bool bar_shown_ = false;
  std::string label_, unit_;
  std::int64_t total_ = 0, done_ = 0, next_report_ = 0;
  std::chrono::steady_clock::time_point start_, last_drawn_;
};

}  // namespace kv8::apps
