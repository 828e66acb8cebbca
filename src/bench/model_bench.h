// Speed of a whole model: prefill, decode and both at once, with an FP16 and an FP8 KV cache,
// beside what the machine's memory and its GEMM library allow, all measured in the same run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "bench/model_kernels.h"
#include "bench/model_work.h"
#include "bench/spread.h"
#include "bench/workload.h"

namespace kv8::bench {

struct ModelBenchOptions {
  std::filesystem::path checkpoint_dir;  ///< FP8 rows need a checkpoint with KV scales
  std::string geometry;                  ///< instead of it: random weights, see geometry.h
  std::int32_t layers = 0;               ///< of the model; 0: all
  DType weight_dtype = DType::kF16;      ///< of random weights
  std::string backend = "cpu";
  int num_threads = 0;
  std::vector<ModelPoint> points;
  /// Contexts at which as many sequences decode as the memory holds pages for.
  std::vector<std::int64_t> full_memory_contexts;
  std::int64_t kv_cache_memory = 0;  ///< bytes for those; 0: all that there is
  std::int64_t decode_steps = 64;    ///< timed steps of a round
  int repeats = 5;                   ///< rounds; one more before them warms up
  bool split_kernels = false;
};

struct ModelBenchRow {
  ModelPoint point;
  std::string kv_dtype;      ///< "fp16" or "fp8"
  bool full_memory = false;  ///< the batch is what fits
  bool alternating = false;  ///< the other cache was measured in turn with this one
  Spread ms;                 ///< a step; prefill: the whole prompt
  double tokens_per_s = 0;   ///< at the median: tokens that the model was fed
  std::int64_t kv_bytes_per_token = 0;
  StepWork work;  ///< mean of a timed piece
  Roofline roofline;
  /// Median over the samples of the roofline at the ceilings of the same round / the sample's time.
  double roofline_fraction = 0;
  KernelSplit split;  ///< empty unless asked for
  /// Part of a step during which no kernel ran.
  double between_kernels() const { return 1 - split.busy_ms / ms.median; }
};

struct ModelBenchResult {
  std::string machine;  ///< processor and threads used, or GPU
  std::string model, backend, weight_dtype;
  std::int64_t weight_bytes = 0;  ///< read by every step
  Ceilings ceilings;              ///< medians over the rounds
  std::vector<ModelBenchRow> rows;
};

/// A round times every point with the FP16 cache, then with the FP8 cache; where the memory does
/// not hold both, one is measured after the other. Caches are filled as Candidate::fill_cache says.
Result<ModelBenchResult> bench_model(const ModelBenchOptions& options, const Reporter& reporter);

/// The FP16 row beside an FP8 one: the same point, or the same context where the batch is what
/// fits. nullptr for FP16 rows and where there is none.
const ModelBenchRow* fp16_beside(const ModelBenchResult& result, const ModelBenchRow& row);

/// The row of this phase and cache, the first where there are several; nullptr if there is none.
const ModelBenchRow* find_row(const ModelBenchResult& result, Phase phase,
                              std::string_view kv_dtype);

}  // namespace kv8::bench
