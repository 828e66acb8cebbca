#include "quant/checkpoint_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <system_error>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "formats/float_formats.h"

namespace kv8::quant {
namespace {

namespace fs = std::filesystem;

constexpr auto kCopiedFiles = std::to_array<const char*>(
    {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
     "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
     "chat_template.jinja", "chat_template.json", "processed_chat_template.json", "LICENSE",
     "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt"});

/// First element of an FP16 tensor that is infinite or NaN, or -1.
std::int64_t first_non_finite(const TensorView& tensor) {
  const auto* bits = tensor.data<std::uint16_t>();
  const auto* end = bits + tensor.num_elements();
  const auto* found = std::find_if(bits, end, [](auto x) { return (x & 0x7C00) == 0x7C00; });
  return found == end ? -1 : found - bits;
}

float element(const TensorView& tensor, std::int64_t index) {
  return tensor.dtype == DType::kBF16 ? bf16_to_float(tensor.data<std::uint16_t>()[index])
                                      : tensor.data<float>()[index];
}

Result<TensorView> to_fp16(const TensorView& tensor, const std::string& name) {
  const bool is_wide = tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16;
  // Rotary frequencies that old checkpoints carry are not weights and would lose their precision.
  if (!is_wide || name.ends_with("inv_freq")) return tensor;
  TensorView half = KV8_TRY(convert(tensor, DType::kF16));
  if (const std::int64_t bad = first_non_finite(half); bad >= 0) {
    return bad_input("tensor `{}`: element {} is {}, which FP16 cannot hold (largest 65504)", name,
                     bad, element(tensor, bad));
  }
  return half;
}

Result<std::vector<io::NamedTensor>> weights_in_fp16(const io::Checkpoint& source) {
  std::vector<io::NamedTensor> tensors;
  for (const std::string& name : source.tensor_names()) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    TensorView tensor = KV8_TRY(source.tensor(name));
    tensor = KV8_TRY(to_fp16(tensor, name));
    tensors.push_back({name, std::move(tensor)});
  }
  return tensors;
}

TensorView scale_tensor(const std::vector<float>& scales, bool scalar) {
  return tensor_from_floats(scales,
                            scalar ? Shape{} : Shape{static_cast<std::int64_t>(scales.size())});
}

void append_scales(const CalibrationResult& calibration, bool per_head,
                   std::vector<io::NamedTensor>& tensors) {
  for (std::size_t i = 0; i < calibration.layers.size(); ++i) {
    const io::LayerKvScales scales = layer_scales(calibration.layers[i], per_head);
    const std::string prefix = fmt::format("model.layers.{}.self_attn.", i);
    tensors.push_back({prefix + "q_proj.q_scale", scale_tensor(scales.q, false)});
    tensors.push_back({prefix + "k_proj.k_scale", scale_tensor(scales.k, !per_head)});
    tensors.push_back({prefix + "v_proj.v_scale", scale_tensor(scales.v, !per_head)});
  }
}

Json producer() { return {{"name", "kv8"}, {"version", KV8_VERSION}}; }

Result<Json> model_config(const io::Checkpoint& source, bool kv_fp8) {
  Json config =
      KV8_TRY(parse_json(source.config().raw_json, (source.dir() / "config.json").string()));
  config.erase("quantization_config");
  if (config.contains("dtype")) config["dtype"] = "float16";
  if (config.contains("torch_dtype") || !config.contains("dtype")) {
    config["torch_dtype"] = "float16";
  }
  if (!kv_fp8) return config;
  Json& quantization = config["quantization_config"];
  quantization["quant_method"] = "modelopt";
  quantization["quant_algo"] = nullptr;
  quantization["config_groups"] = Json::object();
  quantization["ignore"] = Json::array();
  quantization["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  quantization["producer"] = producer();
  return config;
}

Json hf_quant_config() {
  Json json;
  json["producer"] = producer();
  json["quantization"] = {
      {"quant_algo", nullptr}, {"kv_cache_quant_algo", "FP8"}, {"exclude_modules", Json::array()}};
  return json;
}

Json observed_json(const std::vector<float>& amax, const std::vector<float>& scale) {
  Json json;
  json["amax"] = *std::ranges::max_element(amax);
  json["amax_per_head"] = amax;
  json["scale"] = scale;
  return json;
}

Json calibration_json(const CalibrationResult& calibration, bool per_head) {
  Json json;
  json["producer"] = producer();
  json["dataset"] = {{"name", calibration.dataset_name}, {"sha256", calibration.dataset_sha256}};
  json["samples_asked"] = calibration.samples_asked;
  json["num_samples"] = calibration.num_samples;
  json["num_tokens"] = calibration.num_tokens;
  json["granularity"] = per_head ? "head" : "tensor";
  json["min_scale"] = kMinScale;
  json["layers"] = Json::array();
  for (std::size_t i = 0; i < calibration.layers.size(); ++i) {
    const LayerAmax& amax = calibration.layers[i];
    const io::LayerKvScales scales = layer_scales(amax, per_head);
    Json layer;
    layer["layer"] = i;
    layer["q"] = observed_json(amax.q, scales.q);
    layer["k"] = observed_json(amax.k, scales.k);
    layer["v"] = observed_json(amax.v, scales.v);
    json["layers"].push_back(std::move(layer));
  }
  return json;
}

std::vector<float> scales_of(const std::vector<float>& amax, bool per_head) {
  std::vector<float> scales;
  if (!per_head) return {scale_from_amax(*std::ranges::max_element(amax))};
  for (const float value : amax) scales.push_back(scale_from_amax(value));
  return scales;
}

}  // namespace

float scale_from_amax(float amax) { return std::max(amax / kE4m3Max, kMinScale); }

io::LayerKvScales layer_scales(const LayerAmax& amax, bool per_head) {
  return {scales_of(amax.k, per_head), scales_of(amax.v, per_head), scales_of(amax.q, false)};
}

Status write_checkpoint(const io::Checkpoint& source, const fs::path& dir,
                        const std::optional<CalibrationResult>& calibration, bool per_head) {
  std::vector<io::NamedTensor> tensors = KV8_TRY(weights_in_fp16(source));
  if (calibration) append_scales(*calibration, per_head, tensors);
  KV8_TRY(io::write_sharded_safetensors(dir, tensors));
  const Json config = KV8_TRY(model_config(source, calibration.has_value()));
  KV8_TRY(write_json_file(dir / "config.json", config));
  if (calibration) {
    KV8_TRY(write_json_file(dir / "hf_quant_config.json", hf_quant_config()));
    KV8_TRY(write_json_file(dir / "kv_calibration.json", calibration_json(*calibration, per_head)));
  }
  for (const char* name : kCopiedFiles) {
    std::error_code failure;
    if (fs::is_regular_file(source.dir() / name, failure)) {
      KV8_TRY(kv8::copy_file(source.dir() / name, dir / name));
    }
  }
  return {};
}

}  // namespace kv8::quant
