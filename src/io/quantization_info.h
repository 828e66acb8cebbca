// What a checkpoint says about its quantization. Include only in .cpp files.
#pragma once

#include <filesystem>

#include "io/checkpoint.h"

namespace kv8::io {

/// Reads `dir`/hf_quant_config.json, else config.json's `quantization_config` (ModelOpt's and
/// compressed-tensors' spellings). Errors for what this version cannot use: quantized weights, KV
/// cache formats other than FP8, FP8_KV8's transforms.
Result<QuantizationInfo> read_quantization(const std::filesystem::path& dir,
                                           const ModelConfig& config);

}  // namespace kv8::io
