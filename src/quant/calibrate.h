// Calibration: which values do Q, K and V take?
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"

namespace kv8::quant {

/// Calibration or evaluation text as token samples.
struct Dataset {
  std::string name;    ///< "builtin", or the path or name given
  std::string sha256;  ///< of the source's bytes
  std::vector<std::vector<std::int32_t>> samples;
};

/// Largest absolute values of one layer, per head: [num_heads] for q, [num_kv_heads] for k and v.
struct LayerAmax {
  std::vector<float> q, k, v;
};

struct CalibrationResult {
  std::vector<LayerAmax> layers;
  std::int64_t num_samples = 0, num_tokens = 0, samples_asked = 0;
  std::string dataset_name, dataset_sha256;
};

struct CalibrationOptions {
  std::string dataset;  ///< path, name under $KV8_DATASETS, "builtin", or "": the default
  std::int64_t num_samples = 512;
  std::int64_t sample_tokens = 512;
  int num_threads = 0;
  std::string backend = "cpu";  ///< "cpu", "cuda" or "auto"
};

struct QuantizeOptions {
  std::filesystem::path model_dir, output_dir;
  bool kv_cache_fp8 = false;
  bool per_head = false;  ///< K and V scales per KV head instead of per tensor
  CalibrationOptions calibration;
};

/// Runs the text through the model with an FP16 cache and observes Q, K and V. Samples are no
/// longer than the model's max_position_embeddings. The result depends on model and text alone.
Result<CalibrationResult> calibrate(const std::filesystem::path& model_dir,
                                    const CalibrationOptions& options, const Reporter& reporter);

/// `kv8 quantize llm`: runs the text through the model, then writes the ModelOpt-style checkpoint
/// (whole or not at all) with kv_calibration.json beside it. Deterministic.
Status quantize_llm(const QuantizeOptions& options, const Reporter& reporter);

}  // namespace kv8::quant
