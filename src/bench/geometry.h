// Published models' geometries, with random weights made in memory: speed does not depend on what
// the weights are, so it can be measured without a checkpoint.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/checkpoint.h"

namespace kv8::bench {

/// "qwen3-8b", "llama-3.2-1b", …
std::vector<std::string> geometry_names();

/// The configuration of a geometry, as its config.json states it; unknown names are errors that
/// list the known ones. `num_layers` 0: all of them.
Result<io::ModelConfig> geometry_config(std::string_view name, std::int32_t num_layers);

/// Numbers in all weights of a model; an embedding that is the output matrix too counts once.
std::int64_t num_parameters(const io::ModelConfig& config);

/// A checkpoint of that configuration in memory. Matrices hold normal numbers of deviation 0.02, a
/// block of 2^22 of them repeated at shifting places; norms are 1. The FP8 scales map six standard
/// deviations of K, V and Q to E4M3's 448, about what calibration finds for normal values.
/// `dtype`: kF16 or kBF16, of all weights. kCapacity when there is not enough memory.
Result<io::Checkpoint> random_checkpoint(const io::ModelConfig& config, DType dtype);

}  // namespace kv8::bench
