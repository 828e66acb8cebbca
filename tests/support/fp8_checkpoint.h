// Checkpoints with an FP8 cache, for tests of the rooms above quant.
#pragma once

#include <filesystem>

#include "quant/calibrate.h"

namespace kv8::test {

/// Quantizes the KV cache of the checkpoint in `plain` with the text that ships with kv8, and
/// writes it to `fp8`. Aborts the test by an exception if that fails.
inline void make_fp8_checkpoint(const std::filesystem::path& plain,
                                const std::filesystem::path& fp8, int samples, int tokens) {
  quant::QuantizeOptions options;
  options.model_dir = plain;
  options.output_dir = fp8;
  options.kv_cache_fp8 = true;
  options.calibration.dataset = "builtin";
  options.calibration.num_samples = samples;
  options.calibration.sample_tokens = tokens;
  options.calibration.num_threads = 1;
  quant::quantize_llm(options, {}).value();
}

}  // namespace kv8::test
