// Requests as JSON lines, answered as they come: docs/requests.md.
#pragma once

#include <functional>
#include <string_view>

#include "base/line_reader.h"
#include "runtime/generate.h"

namespace kv8::runtime {

/// Bytes of a line of requests.
inline constexpr std::size_t kMaxRequestLine = std::size_t{16} << 20;

struct ServeResult {
  std::int64_t num_requests = 0, num_failed = 0;
};

/// Takes a response, one line of JSON without the newline.
using LineSink = std::function<Status(std::string_view)>;

/// Answers the requests of `lines` until they end and all are answered, or until interrupted();
/// then every request that was read still gets its response. Reads no further while 4096 requests
/// are unanswered. Errors are those of the input as a whole and of `sink`.
Result<ServeResult> serve(Runner& runner, LineReader& lines, const RequestOverrides& overrides,
                          const LineSink& sink, const Reporter& reporter);

}  // namespace kv8::runtime
