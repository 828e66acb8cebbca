// Lines from a pipe or terminal, without waiting for them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kv8 {

/// Reads a file descriptor line by line. Holds at most one line's limit and a read's worth of
/// memory.
class LineReader {
 public:
  enum class Kind {
    kLine,     ///< a line, without its newline; the last may lack one
    kTooLong,  ///< a line over the limit; it has been skipped
    kNothing,  ///< no complete line came in time, or a signal did
    kEnd
  };
  struct Line {
    Kind kind = Kind::kNothing;
    std::string_view text;  ///< until the next call
  };

  /// `descriptor` stays the caller's.
  LineReader(int descriptor, std::size_t max_line_bytes);
  /// Waits up to `timeout_ms` (0: not at all) for input if there is no line yet.
  Result<Line> next(int timeout_ms);

 private:
  /// Appends what can be read; false when nothing came in time.
  Result<bool> fill(int timeout_ms);
  Line take(std::size_t length, std::size_t skip);

  int descriptor_;
  std::size_t max_line_bytes_;
  std::string buffer_;
  std::size_t begin_ = 0;     // of the line in buffer_
  std::size_t searched_ = 0;  // no newline in [begin_, searched_)
  bool skipping_ = false;     // in a line that is too long
  bool ended_ = false;
};

}  // namespace kv8
