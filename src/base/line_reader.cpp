#include "base/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace kv8 {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 16;

}  // namespace

LineReader::LineReader(int descriptor, std::size_t max_line_bytes)
    : descriptor_(descriptor), max_line_bytes_(max_line_bytes) {}

Result<LineReader::Line> LineReader::next(int timeout_ms) {
  while (true) {
    const std::size_t newline = buffer_.find('\n', searched_);
    if (newline != std::string::npos) return take(newline - begin_, 1);
    searched_ = buffer_.size();
    if (searched_ - begin_ > max_line_bytes_ || skipping_) {
      skipping_ = true;
      begin_ = searched_ = 0;
      buffer_.clear();
    }
    if (ended_) {
      if (begin_ == buffer_.size() && !skipping_) return Line{Kind::kEnd, {}};
      return take(buffer_.size() - begin_, 0);
    }
    if (!KV8_TRY(fill(timeout_ms))) return Line{Kind::kNothing, {}};
  }
}

LineReader::Line LineReader::take(std::size_t length, std::size_t skip) {
  const bool too_long = skipping_ || length > max_line_bytes_;
  const std::string_view text = std::string_view(buffer_).substr(begin_, length);
  begin_ += length + skip;
  searched_ = begin_;
  skipping_ = false;
  return too_long ? Line{Kind::kTooLong, {}} : Line{Kind::kLine, text};
}

Result<bool> LineReader::fill(int timeout_ms) {
  pollfd wanted{descriptor_, POLLIN, 0};
  const int ready = ::poll(&wanted, 1, timeout_ms);
  if (ready == 0 || (ready < 0 && errno == EINTR)) return false;
  if (ready < 0) return io_error("cannot wait for input: {}", std::strerror(errno));
  buffer_.erase(0, begin_);
  searched_ -= begin_;
  begin_ = 0;
  const std::size_t size = buffer_.size();
  buffer_.resize(size + kReadBytes);
  const ssize_t got = ::read(descriptor_, buffer_.data() + size, kReadBytes);
  const int failure = errno;
  buffer_.resize(size + (got > 0 ? static_cast<std::size_t>(got) : 0));
  if (got > 0) return true;
  if (got < 0 && (failure == EINTR || failure == EAGAIN)) return false;
  if (got < 0) return io_error("cannot read the input: {}", std::strerror(failure));
  ended_ = true;
  return true;
}

}  // namespace kv8
