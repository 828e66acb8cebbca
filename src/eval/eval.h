// What FP8 KV costs in accuracy: perplexity, KL divergence and top-1 agreement on a held-out text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/result.h"

namespace kv8::eval {

struct EvalOptions {
  std::filesystem::path checkpoint_dir;  ///< a quantized checkpoint: FP16 KV is run beside FP8
  std::string text_file;                 ///< "": the held-out text that ships with kv8
  std::int64_t window_tokens = 1024;     ///< non-overlapping windows
  std::int64_t max_tokens = 0;           ///< 0: the whole text
  std::string backend = "cpu";           ///< "cpu", "cuda" or "auto"
  int num_threads = 0;
};

struct EvalResult {
  std::int64_t num_tokens = 0;  ///< predictions scored
  double perplexity_fp16 = 0, perplexity_fp8 = 0;
  double mean_kl = 0;         ///< mean over positions of KL(fp16 || fp8), nats
  double top1_agreement = 0;  ///< fraction of positions with the same best token
  std::int64_t kv_bytes_per_token_fp16 = 0, kv_bytes_per_token_fp8 = 0;
  std::string text_name, text_sha256;
};

/// The held-out text that ships with kv8.
std::string_view held_out_text();

/// Runs every window through both caches, each from an empty cache, and scores each token but the
/// window's first. The checkpoint must have FP8 KV scales. Windows are no longer than the model's
/// max_position_embeddings.
Result<EvalResult> evaluate_kv_cache(const EvalOptions& options, const Reporter& reporter);

}  // namespace kv8::eval
