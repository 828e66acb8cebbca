#include "runtime/serve.h"

#include <map>
#include <string>

namespace kv8::runtime {
namespace {

constexpr std::size_t kMaxUnfinished = 4096;
/// Lines that are taken in between two steps: a flood must not hold up those who run.
constexpr int kLinesPerStep = 64;
/// How long a wait for input may take before an interrupt is noticed.
constexpr int kWaitMs = 100;

class Server {
 public:
  Server(Runner& runner, LineReader& lines, const RequestOverrides& overrides, const LineSink& sink,
         const Reporter& reporter)
      : runner_(runner), lines_(lines), sink_(sink), parser_(overrides, reporter) {
    runner.begin(overrides.batch_size.value_or(0), reporter);
  }

  Result<ServeResult> run() {
    while (true) {
      if (!ended_ && !interrupted()) KV8_TRY(read());
      for (const Response& response : runner_.step()) KV8_TRY(answer(response));
      if ((ended_ || interrupted()) && runner_.num_unfinished() == 0) return result_;
    }
  }

 private:
  /// Takes in lines that are there; waits for one only when there is nothing else to do.
  Status read() {
    for (int i = 0; i < kLinesPerStep && runner_.num_unfinished() < kMaxUnfinished; ++i) {
      const LineReader::Line line =
          KV8_TRY(lines_.next(runner_.num_unfinished() == 0 ? kWaitMs : 0));
      switch (line.kind) {
        case LineReader::Kind::kNothing:
          return {};
        case LineReader::Kind::kEnd:
          ended_ = true;
          return {};
        case LineReader::Kind::kTooLong:
          take(parser_.broken(bad_input("the line is longer than {} bytes", kMaxRequestLine)));
          break;
        case LineReader::Kind::kLine:
          if (line.text.find_first_not_of(" \t\r") != std::string_view::npos) {
            take(parser_.parse(line.text));
          }
      }
    }
    return {};
  }

  void take(RequestLine line) {
    const auto named = numbers_.find(line.id);
    if (line.cancel) {
      if (named != numbers_.end()) runner_.cancel(named->second);
      return;
    }
    if (named != numbers_.end()) {
      line.request.error = bad_input("the request with the id {} has no response yet", line.id);
    }
    Open open{line.id, line.request};
    const std::int32_t number = runner_.submit(std::move(line.request));
    if (!open.id.empty()) numbers_.try_emplace(open.id, number);
    open_.emplace(number, std::move(open));
    ++result_.num_requests;
  }

  Status answer(const Response& response) {
    const auto open = open_.extract(response.request_idx);
    const Open& line = open.mapped();
    const auto named = numbers_.find(line.id);
    if (named != numbers_.end() && named->second == response.request_idx) numbers_.erase(named);
    result_.num_failed += response.error.has_value();
    return sink_(response_line(line.id, line.request, response));
  }

  /// What a response needs of its request.
  struct Open {
    std::string id;
    Request request;
  };

  Runner& runner_;
  LineReader& lines_;
  const LineSink& sink_;
  RequestLines parser_;
  ServeResult result_;
  bool ended_ = false;
  std::map<std::int32_t, Open> open_;            // by number
  std::map<std::string, std::int32_t> numbers_;  // by id
};

}  // namespace

Result<ServeResult> serve(Runner& runner, LineReader& lines, const RequestOverrides& overrides,
                          const LineSink& sink, const Reporter& reporter) {
  return Server(runner, lines, overrides, sink, reporter).run();
}

}  // namespace kv8::runtime
