// What the sampling kernel takes, as plain structs without CUDA types. All pointers are device
// pointers.
#pragma once

#include <cstdint>

namespace kv8 {

/// Log-probabilities of the likeliest tokens that one row can report.
inline constexpr int kSampleMaxLogprobs = 64;

/// One row's settings, in device memory so that a captured launch can be replayed with others. The
/// meaning is that of SampleRow (ops/sampling.h).
struct SampleSettings {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  float temperature = 1.0f;
  float top_p = 1.0f;
  std::int32_t top_k = 0;         ///< 0: the whole vocabulary
  std::int32_t num_logprobs = 0;  ///< 0 to kSampleMaxLogprobs
  std::int32_t first_bias = 0;    ///< the row's part of SampleArgs::bias
  std::int32_t num_bias = 0;
};

/// top_k up to which a row's token hangs on its top_k largest logits alone.
inline constexpr int kSampleFewTopK = 64;

/// Whether the row's token hangs on few logits, however the others weigh.
constexpr bool needs_few_logits(const SampleSettings& settings) {
  return settings.temperature == 0.0f || (settings.top_k > 0 && settings.top_k <= kSampleFewTopK);
}

/// Added to a logit before sampling. Ids of one row are distinct; one outside the vocabulary is
/// ignored.
struct SampleBias {
  std::int32_t id = 0;
  float bias = 0.0f;
};

/// As LogitsFault (ops/sampling.h), in the same order.
enum class SampleFault : std::int32_t { kNone, kNan, kInfinity, kNothingFinite };

struct SampleToken {
  std::int32_t id = 0;  ///< with a fault: the first token whose logit is at fault
  SampleFault fault = SampleFault::kNone;
  double logprob = 0.0;  ///< of `id`, where the row asks for log-probabilities
};

struct SampleTop {
  std::int32_t id = 0;
  std::int32_t unused = 0;
  double logprob = 0.0;
};

/// One token a row, as sample_row (ops/sampling.h) draws it; runs agree bit for bit.
struct SampleArgs {
  const float* logits = nullptr;             ///< [rows][vocab]
  const SampleSettings* settings = nullptr;  ///< [rows]
  const SampleBias* bias = nullptr;          ///< what the rows' settings point into; may be null
  SampleToken* tokens = nullptr;             ///< [rows]
  std::int32_t* ids = nullptr;               ///< [rows], the tokens alone, or null. -1: fault
  SampleTop* top = nullptr;   ///< [rows][kSampleMaxLogprobs], the first min(num_logprobs, vocab) of
                              ///< each row written; null: settings ask for none
  void* workspace = nullptr;  ///< sample_workspace_bytes(), zero before the first launch
  int rows = 0;
  int vocab = 0;  ///< up to 262144
  /// Promises that needs_few_logits holds for all settings, which saves three kernels.
  bool few_logits = false;
  bool dependent_launch = false;
};

}  // namespace kv8
