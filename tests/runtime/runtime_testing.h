// What the tests of this room share: runners over tiny models, in memory.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/temp_dir.h"
#include "runtime/generate.h"
#include "support/random_model.h"
#include "support/tiny_checkpoint.h"

namespace kv8::runtime {

/// Ids of the tiny tokenizer: 8 + b is byte b.
inline constexpr std::int32_t kEndId = 2, kFirstByteId = 8;

/// A small checkpoint folder; `fp8` quantizes its KV cache with the text that ships with kv8.
class TinyModel {
 public:
  explicit TinyModel(const std::string& name, bool fp8 = false);
  explicit TinyModel(const test::RandomModel& model, bool fp8 = false);
  const std::filesystem::path& dir() const { return dir_; }

 private:
  void quantize();

  test::TempDir temp_;
  std::filesystem::path dir_;
};

struct RunnerSetup {
  bool fp8 = false;
  exec::BuilderConfig builder;
  RunnerOptions options;
  std::int64_t max_rows = 256;  ///< of a step
  /// Puts something between the runner and the real backend.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap;
};

std::unique_ptr<Runner> make_runner(const std::filesystem::path& checkpoint_dir,
                                    const RunnerSetup& setup = {});

/// ChatML, as the tiny tokenizer's special tokens have it.
text::ChatTemplate tiny_chat_template();

/// A greedy request for `length` tokens, the end of sequence banned.
Request greedy_request(const std::string& user, std::int32_t length);
/// A sampling request, the end of sequence banned.
Request random_request(const std::string& user, std::int32_t length, std::uint64_t seed);
/// Bans all but lower-case letters and the space, so that answers are text.
void allow_only_letters(Request& request, std::int32_t vocab_size);

RequestFile file_of(std::vector<Request> requests, std::int32_t batch_size = 1);

/// Fails the test if a response has an error.
void expect_answers(const std::vector<Response>& responses);

/// What an answer and another one to the same request have in common.
struct Comparison {
  std::int64_t tokens = 0;        ///< that are the same
  double largest_difference = 0;  ///< of their log-probabilities
  bool parted = false;            ///< another token follows
  double gap = 0;                 ///< between the two, if so
};
/// Both with log-probabilities; `gap` is infinite if `other` does not rank the token.
Comparison compare_answers(const Response& response, const Response& other);

}  // namespace kv8::runtime
