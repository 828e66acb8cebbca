#include "io/rope_config.h"

#include <cstdint>
#include <string>

namespace kv8::io {
namespace {

constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 1e6;
constexpr std::int64_t kMaxPositions = 1 << 26;

Result<double> bounded(const Json& json, const char* key, std::string_view source, double min,
                       double max) {
  const double value = KV8_TRY(json_number(json, key, source));
  if (!(value >= min && value <= max)) {
    return bad_input("{}: field `{}` is {}, expected a number from {} to {}", source, key, value,
                     min, max);
  }
  return value;
}

Result<double> bounded_or(const Json& json, const char* key, std::string_view source, double min,
                          double max, double fallback) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return fallback;
  return bounded(json, key, source, min, max);
}

Result<RopeScalingKind> parse_kind(const Json& scaling, std::string_view source) {
  const char* key = scaling.contains("rope_type") ? "rope_type" : "type";
  const std::string name = KV8_TRY(json_string_or(scaling, key, source, "default"));
  if (name == "default") return RopeScalingKind::kNone;
  if (name == "linear") return RopeScalingKind::kLinear;
  if (name == "dynamic") return RopeScalingKind::kDynamic;
  if (name == "llama3") return RopeScalingKind::kLlama3;
  if (name == "yarn") return RopeScalingKind::kYarn;
  return unsupported(
      "{}: RoPE scaling `{}` \"{}\" is not supported; supported are default, linear, dynamic, "
      "llama3, yarn",
      source, key, name);
}

Status parse_llama3(const Json& json, std::string_view source, RopeScaling& scaling) {
  scaling.low_freq_factor = KV8_TRY(bounded(json, "low_freq_factor", source, 1e-6, kMaxFactor));
  scaling.high_freq_factor = KV8_TRY(bounded(json, "high_freq_factor", source, 1e-6, kMaxFactor));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return bad_input("{}: `high_freq_factor` {} is not above `low_freq_factor` {}", source,
                     scaling.high_freq_factor, scaling.low_freq_factor);
  }
  if (scaling.original_max_position == 0) {
    return bad_input("{}: field `original_max_position_embeddings` is missing", source);
  }
  return {};
}

Status parse_yarn(const Json& json, std::string_view source, RopeScaling& scaling) {
  scaling.beta_fast = KV8_TRY(bounded_or(json, "beta_fast", source, 1e-6, kMaxFactor, 32.0));
  scaling.beta_slow = KV8_TRY(bounded_or(json, "beta_slow", source, 1e-6, kMaxFactor, 1.0));
  if (scaling.beta_fast < scaling.beta_slow) {
    return bad_input("{}: `beta_fast` {} is below `beta_slow` {}", source, scaling.beta_fast,
                     scaling.beta_slow);
  }
  scaling.attention_factor =
      KV8_TRY(bounded_or(json, "attention_factor", source, 1e-6, kMaxFactor, 0.0));
  scaling.mscale = KV8_TRY(bounded_or(json, "mscale", source, 0.0, kMaxFactor, 0.0));
  scaling.mscale_all_dim =
      KV8_TRY(bounded_or(json, "mscale_all_dim", source, 0.0, kMaxFactor, 0.0));
  scaling.truncate = KV8_TRY(json_bool_or(json, "truncate", source, true));
  return {};
}

Result<RopeScaling> parse_scaling(const Json& json, std::string_view source,
                                  std::int64_t top_level_original) {
  RopeScaling scaling;
  if (json.contains("mrope_section")) {
    return unsupported("{}: `mrope_section`: multimodal RoPE is not supported", source);
  }
  scaling.kind = KV8_TRY(parse_kind(json, source));
  if (scaling.kind == RopeScalingKind::kNone) return scaling;
  scaling.factor = KV8_TRY(bounded(json, "factor", source, 1.0, kMaxFactor));
  scaling.original_max_position = static_cast<int>(KV8_TRY(json_int_or(
      json, "original_max_position_embeddings", source, 1, kMaxPositions, top_level_original)));
  if (scaling.kind == RopeScalingKind::kLlama3) KV8_TRY(parse_llama3(json, source, scaling));
  if (scaling.kind == RopeScalingKind::kYarn) KV8_TRY(parse_yarn(json, source, scaling));
  return scaling;
}

Status refuse_partial(const Json& json, std::string_view source) {
  const double part = KV8_TRY(json_number_or(json, "partial_rotary_factor", source, 1.0));
  if (part != 1.0) {
    return unsupported("{}: `partial_rotary_factor` {} is not supported, only 1 is", source, part);
  }
  return {};
}

/// The object under `key`, or nullptr where it is missing or null.
Result<const Json*> find_object(const Json& config, const char* key, std::string_view source) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return static_cast<const Json*>(nullptr);
  if (!found->is_object()) return bad_input("{}: `{}` is not an object", source, key);
  return &*found;
}

}  // namespace

Result<RopeConfig> parse_rope_config(const Json& config, std::string_view source) {
  constexpr double kDefaultTheta = 10000.0;
  RopeConfig rope;
  rope.theta = KV8_TRY(bounded_or(config, "rope_theta", source, 1.0, kMaxTheta, kDefaultTheta));
  KV8_TRY(refuse_partial(config, source));
  const std::int64_t original =
      KV8_TRY(json_int_or(config, "original_max_position_embeddings", source, 1, kMaxPositions, 0));
  const char* key = "rope_parameters";
  const Json* fields = KV8_TRY(find_object(config, key, source));
  if (fields == nullptr) {
    key = "rope_scaling";
    fields = KV8_TRY(find_object(config, key, source));
  }
  if (fields == nullptr) return rope;
  const std::string where = fmt::format("{}: `{}`", source, key);
  for (const auto& [name, value] : fields->items()) {
    if (value.is_object()) {
      return unsupported("{}: \"{}\": RoPE that differs by layer is not supported", where, name);
    }
  }
  rope.theta = KV8_TRY(bounded_or(*fields, "rope_theta", where, 1.0, kMaxTheta, rope.theta));
  KV8_TRY(refuse_partial(*fields, where));
  rope.scaling = KV8_TRY(parse_scaling(*fields, where, original));
  return rope;
}

}  // namespace kv8::io
