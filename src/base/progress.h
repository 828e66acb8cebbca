// How the library talks while it works: sinks that a program fills in. The library itself prints
// nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace kv8 {

enum class LogLevel { kInfo, kWarning };

/// Receives one line without a newline.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Receives the state of a long job. `unit` is plural ("samples"). Called from one thread.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void begin(std::string_view label, std::int64_t total, std::string_view unit) = 0;
  virtual void advance(std::int64_t done) = 0;
  virtual void end() = 0;
};

/// What a long-running library call may use of its caller; every member may be left empty.
struct Reporter {
  LogSink log;
  ProgressSink* progress = nullptr;

  void info(std::string_view line) const {
    if (log) log(LogLevel::kInfo, line);
  }
  void warn(std::string_view line) const {
    if (log) log(LogLevel::kWarning, line);
  }
};

/// True once the user asked to stop (SIGINT, SIGTERM). Long loops look at it and return
/// ErrorCode::kCancelled, so that destructors remove what is half-written.
bool interrupted();
/// Makes SIGINT and SIGTERM set that flag; a second signal ends the process at once.
void install_interrupt_handler();
/// Sets or clears the flag, for tests.
void set_interrupted(bool value);

}  // namespace kv8
