#include "io/quantization_info.h"

#include "base/json.h"
#include "io/paths.h"

namespace kv8::io {
namespace {

bool truthy(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0.0;
  return !value.empty() && value != "";
}

const Json& field(const Json& object, const char* key) {
  static const Json kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

/// Config groups list what is quantized: weights, or only activations, or nothing.
bool groups_quantize_weights(const Json& quantization) {
  const Json& groups = field(quantization, "config_groups");
  if (!groups.is_object()) return false;
  for (const auto& [name, group] : groups.items()) {
    if (group.is_object() && truthy(field(group, "weights"))) return true;
  }
  return false;
}

Result<QuantizationInfo> parse_hf_quant_config(const Json& file, const std::string& source) {
  QuantizationInfo info;
  info.source = source + ": `quantization`";
  const Json& quantization = field(file, "quantization");
  if (!quantization.is_object()) {
    return bad_input("{}: field `quantization` is missing or not an object", source);
  }
  info.weight_algo = KV8_TRY(json_string_or(quantization, "quant_algo", info.source, ""));
  info.kv_cache_algo =
      KV8_TRY(json_string_or(quantization, "kv_cache_quant_algo", info.source, ""));
  return info;
}

Result<QuantizationInfo> parse_quantization_config(const Json& quantization,
                                                   const std::string& source) {
  QuantizationInfo info;
  info.source = source + ": `quantization_config`";
  if (!quantization.is_object()) return bad_input("{} is not an object", info.source);
  const std::string method = KV8_TRY(json_string(quantization, "quant_method", info.source));
  info.kv_cache_algo =
      KV8_TRY(json_string_or(quantization, "kv_cache_quant_algo", info.source, ""));
  if (info.kv_cache_algo.empty() && truthy(field(quantization, "kv_cache_scheme"))) {
    info.kv_cache_algo = "FP8";
  }
  if (method == "modelopt") {
    info.weight_algo = KV8_TRY(json_string_or(quantization, "quant_algo", info.source, ""));
    if (info.weight_algo.empty() && groups_quantize_weights(quantization)) {
      info.weight_algo = "config_groups";
    }
  } else if (method == "compressed-tensors") {
    if (groups_quantize_weights(quantization)) {
      info.weight_algo =
          KV8_TRY(json_string_or(quantization, "format", info.source, "config_groups"));
    }
  } else {
    info.weight_algo = method;
  }
  return info;
}

Status refuse_unusable(const QuantizationInfo& info) {
  if (!info.weight_algo.empty()) {
    return unsupported(
        "{}: weight quantization \"{}\" is not supported by this version; use the model's FP16 or "
        "BF16 checkpoint",
        info.source, info.weight_algo);
  }
  if (info.kv_cache_algo == "FP8_KV8") {
    return unsupported(
        "{}: KV cache format \"FP8_KV8\" (offsets, rotation or error feedback) is not supported by "
        "this version; quantize the model again for plain \"FP8\"",
        info.source);
  }
  if (!info.kv_cache_algo.empty() && info.kv_cache_algo != "FP8") {
    return unsupported("{}: KV cache format \"{}\" is not supported; supported is \"FP8\"",
                       info.source, info.kv_cache_algo);
  }
  return {};
}

Result<QuantizationInfo> find_quantization(const std::filesystem::path& dir,
                                           const ModelConfig& config) {
  const auto path = dir / "hf_quant_config.json";
  if (path_exists(path)) {
    const Json file = KV8_TRY(read_json_file(path));
    if (!file.is_object()) return bad_input("{}: not a JSON object", path.string());
    return parse_hf_quant_config(file, path.string());
  }
  const std::string source = (dir / "config.json").string();
  const Json json = KV8_TRY(parse_json(config.raw_json, source));
  const Json& quantization = field(json, "quantization_config");
  if (quantization.is_null()) return QuantizationInfo{};
  return parse_quantization_config(quantization, source);
}

}  // namespace

Result<QuantizationInfo> read_quantization(const std::filesystem::path& dir,
                                           const ModelConfig& config) {
  QuantizationInfo info = KV8_TRY(find_quantization(dir, config));
  KV8_TRY(refuse_unusable(info));
  info.kv_cache_fp8 = info.kv_cache_algo == "FP8";
  return info;
}

}  // namespace kv8::io
