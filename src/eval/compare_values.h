// The intermediate values of two runs of one model, side by side: which step is the first to
// differ?
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "graph/backend.h"
#include "io/checkpoint.h"

namespace kv8::eval {

/// How one of the two runs goes.
struct RunSettings {
  std::string backend = "cpu";
  bool kv_fp8 = false;
  DType q_dtype = DType::kF8E4M3;  ///< what Q becomes with an FP8 cache: kF8E4M3 or kF16
  int num_threads = 0;
  std::int64_t prefill = 0;  ///< tokens to process at once, the rest one by one; 0: all at once
};

/// Values of all tokens of a run under one name, [rows, cols].
struct RecordedValues {
  std::int64_t rows = 0, cols = 0;
  std::int32_t layer = kNone;  ///< kNone: behind the layers
  std::vector<float> values;
};

/// In the order in which they first came.
struct Recording {
  std::vector<std::string> names;
  std::map<std::string, RecordedValues> values;
};

/// What differs under one name. Not finite on either side (NaN, infinity) is an infinite error.
struct ValueDifference {
  std::string name;
  std::int64_t rows = 0, cols = 0;
  std::int32_t layer = kNone;
  double max_error = 0;       ///< largest |a - b|
  double relative_error = 0;  ///< that over the largest |a|
  double rms_error = 0;       ///< root mean square of a - b over that of a
  std::int64_t worst_row = 0, worst_col = 0;
  float worst_a = 0, worst_b = 0;
};

struct ValueComparison {
  std::vector<ValueDifference> differences;  ///< in the order of the first run
  std::vector<std::string> only_in_a, only_in_b;
};

/// Runs `ids` through the model with taps and keeps what passes: every step's result as step_name
/// calls it, Q, K and V before rounding as "k of layer 3 (unrounded)". After that every call runs
/// again without taps, where a backend may fuse steps and replay graphs, for its "logits without
/// taps". kCapacity when all that would take more than 8 GiB.
Result<Recording> record_values(const io::Checkpoint& checkpoint, std::span<const std::int32_t> ids,
                                const RunSettings& settings);

/// Compares what both have. A name with other sizes on the two sides is an error.
Result<ValueComparison> compare_values(const Recording& a, const Recording& b);

/// The first that is beyond `tolerance` (relative_error), or nullptr.
const ValueDifference* first_beyond(const ValueComparison& comparison, double tolerance);

}  // namespace kv8::eval
