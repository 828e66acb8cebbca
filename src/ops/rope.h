// Rotary position embedding: parameters as model configurations state them, and the table of
// inverse frequencies that all backends and the exporter use.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace kv8 {

enum class RopeScalingKind { kNone, kLinear, kDynamic, kLlama3, kYarn };

/// Fields of config.json's `rope_scaling` (transformers' modeling_rope_utils names).
struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 0.0;  // yarn; 0: derived from factor (and mscale, mscale_all_dim)
  double mscale = 0.0;            // yarn
  double mscale_all_dim = 0.0;    // yarn
  bool truncate = true;           // yarn: round the correction range to whole dimensions
  int original_max_position = 0;  ///< 0: the model's max_position_embeddings
};

struct RopeConfig {
  double theta = 10000.0;
  int head_dim = 0;
  int max_position = 0;  ///< max_position_embeddings
  RopeScaling scaling;
};

/// inv_freq[i] multiplies a position to give the angle of the pair (x[i], x[i + head_dim/2]);
/// cos and sin are multiplied by `attention_factor` (1 except for yarn).
struct RopeTable {
  std::vector<float> inv_freq;  // head_dim / 2
  float attention_factor = 1.0f;
};

/// Fails for parameters that cannot be meant (theta <= 0, odd head_dim, factor < 1, …).
Result<RopeTable> make_rope_table(const RopeConfig& config);

}  // namespace kv8
