// Speed of a whole model: prefill and decode with an FP16 and an FP8 KV cache, beside what the
// machine's memory and its GEMM library allow, all measured in the same run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"

namespace kv8::bench {

struct ModelBenchOptions {
  std::filesystem::path checkpoint_dir;  ///< FP8 rows need a checkpoint with KV scales
  std::int64_t prompt_tokens = 512;
  std::int64_t decode_tokens = 64;  ///< generated after the prompt, batch 1
  int repeats = 5;
  int num_threads = 0;
};

/// Median, 10th and 90th percentile over the repeats.
struct Spread {
  double median = 0, p10 = 0, p90 = 0;
};
Spread spread_of(std::vector<double> samples);

struct ModelBenchRow {
  std::string kv_dtype;         ///< "fp16" or "fp8"
  Spread prefill_tokens_per_s;  ///< prompt_tokens at once
  Spread decode_tokens_per_s;   ///< one token at a time behind that prompt
  double prefill_of_gemm = 0;   ///< time of the library's sgemm on the same shapes / prefill time
  double decode_of_bandwidth = 0;  ///< weight bytes read a second / measured read bandwidth
  std::int64_t kv_bytes_per_token = 0;
};

struct ModelBenchResult {
  std::string machine;  ///< processor, threads used
  int threads = 0;
  std::int64_t weight_bytes = 0;  ///< read by every decode step
  double read_gb_per_s = 0;       ///< ceiling: summing a buffer of weight_bytes
  double gemm_gflops = 0;         ///< ceiling: sgemm over the model's own shapes
  std::int64_t prompt_tokens = 0, decode_tokens = 0;
  std::vector<ModelBenchRow> rows;  ///< fp16, then fp8 where the checkpoint has scales
};

Result<ModelBenchResult> bench_model_cpu(const ModelBenchOptions& options,
                                         const Reporter& reporter);

}  // namespace kv8::bench
