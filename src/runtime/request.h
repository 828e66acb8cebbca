// Request files: docs/requests.md lists every field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "text/chat_template.h"

namespace kv8::runtime {

struct SamplingParams {
  float temperature = 1.0f;
  float top_p = 0.8f;
  std::int32_t top_k = 50;  ///< 0: the whole vocabulary
  std::uint64_t seed = 0;  ///< a file's seed s gives request i the seed s + i unless it has its own
  std::int32_t max_generate_length = 256;
  std::int32_t num_logprobs = 0;
  std::map<std::int32_t, float> logit_bias;
  std::vector<std::string> stop;

  bool greedy() const { return temperature == 0.0f || top_k == 1; }
};

struct Request {
  std::vector<text::ChatMessage> messages;
  SamplingParams sampling;
  bool apply_chat_template = true, add_generation_prompt = true, enable_thinking = false;
  bool save_system_prompt_kv_cache = false;
  std::optional<Error> error;  ///< what is wrong with this request; the others still run
};

struct RequestFile {
  std::string path;
  std::int32_t batch_size = 1;
  std::vector<Request> requests;
};

/// Overrides from the command line (llm_inference --batchSize, --maxGenerateLength,
/// --numLogprobs); unset keeps the file's.
struct RequestOverrides {
  std::optional<std::int32_t> batch_size, max_generate_length, num_logprobs;
};

/// A line of a request stream (docs/requests.md): a request, or the wish to end one.
struct RequestLine {
  std::string id;       ///< `id` as JSON text; "" if there is none
  bool cancel = false;  ///< ends the request `id`; there is no request in this line
  Request request;      ///< with an error if the line cannot be understood
};

/// Reads the lines of one request stream.
class RequestLines {
 public:
  /// Fields that are unknown are warned about through `reporter`, each name once.
  RequestLines(const RequestOverrides& overrides, const Reporter& reporter);
  ~RequestLines();
  RequestLine parse(std::string_view line);
  /// The line that stands for one that could not be read.
  RequestLine broken(Error error);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Malformed JSON, or a wrong type at the top level, fails the file with line and column or field;
/// a fault inside one request is kept as that request's error. Unknown fields are warned about
/// through `reporter`.
Result<RequestFile> read_request_file(const std::filesystem::path& file,
                                      const RequestOverrides& overrides, const Reporter& reporter);
/// The same from text; `source` names it in messages and becomes RequestFile::path.
Result<RequestFile> parse_request_file(std::string_view text, std::string_view source,
                                       const RequestOverrides& overrides, const Reporter& reporter);

}  // namespace kv8::runtime
