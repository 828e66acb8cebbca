// Formulas: "llama3" from the Llama 3.1 release, "yarn" from arXiv 2309.00071, each with the
// details (rounding of the correction range, mscale) of transformers' modeling_rope_utils.
#include "ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kv8 {
namespace {

Status check_positive(double value, const char* field) {
  if (std::isfinite(value) && value > 0) return {};
  return bad_input("rope parameter {} is {}, but must be a positive number", field, value);
}

Status check_scaling(const RopeConfig& config) {
  const RopeScaling& scaling = config.scaling;
  if (scaling.kind == RopeScalingKind::kNone) return {};
  if (!std::isfinite(scaling.factor) || scaling.factor < 1.0) {
    return bad_input("rope_scaling.factor is {}, but must be 1 or more", scaling.factor);
  }
  if (scaling.original_max_position < 0) {
    return bad_input("rope_scaling.original_max_position_embeddings is {}, but must be positive",
                     scaling.original_max_position);
  }
  const bool needs_context =
      scaling.kind == RopeScalingKind::kLlama3 || scaling.kind == RopeScalingKind::kYarn;
  if (needs_context && scaling.original_max_position == 0 && config.max_position <= 0) {
    return bad_input(
        "rope_scaling needs original_max_position_embeddings or max_position_embeddings");
  }
  return {};
}

double original_context(const RopeConfig& config) {
  const int original = config.scaling.original_max_position;
  return original > 0 ? original : config.max_position;
}

Status scale_llama3(const RopeConfig& config, std::vector<double>& inv_freq) {
  const RopeScaling& scaling = config.scaling;
  KV8_TRY(check_positive(scaling.low_freq_factor, "low_freq_factor"));
  KV8_TRY(check_positive(scaling.high_freq_factor, "high_freq_factor"));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return bad_input("rope_scaling.high_freq_factor {} must exceed low_freq_factor {}",
                     scaling.high_freq_factor, scaling.low_freq_factor);
  }
  const double context = original_context(config);
  for (double& frequency : inv_freq) {
    // How often the original context holds the wavelength.
    const double turns = context * frequency / (2 * std::numbers::pi);
    const double ramp =
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    const double keep = std::clamp(ramp, 0.0, 1.0);
    frequency = (1 - keep) * frequency / scaling.factor + keep * frequency;
  }
  return {};
}

/// The (fractional) dimension that turns `rotations` times within the original context.
double yarn_dimension(double rotations, const RopeConfig& config) {
  return config.head_dim * std::log(original_context(config) / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(config.theta));
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Result<double> scale_yarn(const RopeConfig& config, std::vector<double>& inv_freq) {
  const RopeScaling& scaling = config.scaling;
  KV8_TRY(check_positive(scaling.beta_fast, "beta_fast"));
  KV8_TRY(check_positive(scaling.beta_slow, "beta_slow"));
  if (config.theta <= 1) return bad_input("yarn needs rope_theta above 1, found {}", config.theta);
  double low = yarn_dimension(scaling.beta_fast, config);
  double high = yarn_dimension(scaling.beta_slow, config);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, config.head_dim - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / scaling.factor * ramp + inv_freq[i] * (1 - ramp);
  }
  if (scaling.attention_factor < 0 || !std::isfinite(scaling.attention_factor)) {
    return bad_input("rope_scaling.attention_factor is {}, but must be positive",
                     scaling.attention_factor);
  }
  if (scaling.attention_factor > 0) return scaling.attention_factor;
  if (scaling.mscale == 0 || scaling.mscale_all_dim == 0) return yarn_mscale(scaling.factor, 1.0);
  return yarn_mscale(scaling.factor, scaling.mscale) /
         yarn_mscale(scaling.factor, scaling.mscale_all_dim);
}

}  // namespace

Result<RopeTable> make_rope_table(const RopeConfig& config) {
  KV8_TRY(check_positive(config.theta, "rope_theta"));
  if (config.head_dim <= 0 || config.head_dim % 2 != 0 || config.head_dim > 65536) {
    return bad_input("RoPE needs an even head_dim, found {}", config.head_dim);
  }
  KV8_TRY(check_scaling(config));

  std::vector<double> inv_freq(static_cast<std::size_t>(config.head_dim / 2));
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    inv_freq[i] = std::pow(config.theta, -2.0 * static_cast<double>(i) / config.head_dim);
  }
  double attention_factor = 1.0;
  switch (config.scaling.kind) {
    case RopeScalingKind::kNone:
    case RopeScalingKind::kDynamic:  // within the original context the base is unchanged
      break;
    case RopeScalingKind::kLinear:
      for (double& frequency : inv_freq) frequency /= config.scaling.factor;
      break;
    case RopeScalingKind::kLlama3:
      KV8_TRY(scale_llama3(config, inv_freq));
      break;
    case RopeScalingKind::kYarn:
      attention_factor = KV8_TRY(scale_yarn(config, inv_freq));
      break;
  }

  RopeTable table;
  table.inv_freq.assign(inv_freq.begin(), inv_freq.end());
  table.attention_factor = static_cast<float>(attention_factor);
  for (const float frequency : table.inv_freq) {
    if (!std::isfinite(frequency)) {
      return bad_input("rope_theta {} gives a frequency that is not finite", config.theta);
    }
  }
  if (!std::isfinite(table.attention_factor)) {
    return bad_input("rope_scaling gives an attention factor of {}", attention_factor);
  }
  return table;
}

}  // namespace kv8
