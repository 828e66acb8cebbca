// Prefill attention on the GPU, FP16 against FP8: the table, its JSON and its plot.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"

namespace kv8::bench {

/// One problem: `batch` sequences of `seq_len` new tokens over an empty cache, causal.
struct FmhaShape {
  std::string model;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0, batch = 0, seq_len = 0;
};

/// Six models x batch 1, 4, 8 x 512, 1,024, 4,096 tokens, then 16k and 64k rows.
std::vector<FmhaShape> default_fmha_shapes();

/// "heads,kv_heads,head_dim,batch,seq_len", each a positive number.
Result<FmhaShape> parse_fmha_shape(const std::string& text);

struct FmhaBenchOptions {
  std::vector<FmhaShape> shapes;  ///< empty: default_fmha_shapes()
  int warmup = 50;
  int repeats = 100;
  double settle_ms = 500.0;         ///< before shapes of 4,096 tokens and more
  bool f16_queries = false;         ///< also time FP16 queries over the FP8 cache
  bool cudnn = true;                ///< time cuDNN in turn with ours, where kv8 was built with it
  std::filesystem::path peers_csv;  ///< other kernels' times on this card, see docs; may be empty
};

struct FmhaTimes {
  double median_us = 0, p10_us = 0, p90_us = 0;
};

/// Columns of the peers' file in the order in which the JSON has them.
inline constexpr const char* kPeerColumns[] = {"fa3_fp16_us", "fa3_fp8_us", "cudnn_fp16_us",
                                               "cudnn_fp8_us"};

struct FmhaRow {
  FmhaShape shape;
  FmhaTimes fp16, fp8;
  double f16_queries_us = 0;  ///< median with FP16 queries over the FP8 cache; 0: not asked for
  std::string fp16_kernel, fp8_kernel;
  std::string score_type;  ///< of the FP8 kernel: "f16" or "f32"
  double fp8_tflops = 0;
  double sm_clock_mhz = 0;
  double error = 0;  ///< relative, FP8 against double precision on the same inputs, sampled rows
  std::map<std::string, double> peers;  ///< medians by column; absent where unknown
};

struct FmhaResult {
  std::string gpu;
  double wgmma_fp8_tflops = 0;  ///< 0 where the GPU has no wgmma
  std::vector<FmhaRow> rows;
  std::string cudnn_note;  ///< its version, or why it has no times; empty where it was not asked
};

/// Times every shape, FP16 and FP8 launches in turn, L2 cold, event pairs around each launch.
/// An error where kv8 was built without CUDA or no GPU runs its kernels.
Result<FmhaResult> bench_fmha(const FmhaBenchOptions& options, const Reporter& reporter);

std::string fmha_table(const FmhaResult& result);
std::string fmha_json(const FmhaResult& result, const std::string& command);
/// Speed-up of FP8 over FP16 for every shape of the six models, as a bar chart.
std::string fmha_svg(const FmhaResult& result);

}  // namespace kv8::bench
