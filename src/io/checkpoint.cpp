#include "io/checkpoint.h"

#include <cmath>

#include "base/file.h"
#include "io/messages.h"
#include "io/paths.h"
#include "io/quantization_info.h"
#include "io/strict_json.h"

namespace kv8::io {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSingle = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::uint64_t kMaxIndexBytes = 1 << 26;

using TensorMap = std::map<std::string, TensorView, std::less<>>;

/// Tensor names by shard, each a plain file name.
Result<std::map<std::string, std::vector<std::string>>> read_index(const fs::path& path) {
  const std::string source = path.string();
  const std::string text = KV8_TRY(read_text_file(path, kMaxIndexBytes));
  const MapJson index = KV8_TRY(parse_strict_json(text, source + ": the index", 8));
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    return bad_input("{}: field `weight_map` is missing, empty or not an object", source);
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : std::string();
    const bool plain = !name.empty() && name != "." && name != ".." &&
                       name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain) {
      return bad_input(
          "{}: `weight_map` puts tensor {} into {}, expected a file name of this folder", source,
          tensor, file.dump(-1, ' ', true, MapJson::error_handler_t::replace));
    }
    shards[name].push_back(tensor);
  }
  return shards;
}

/// Opens every shard and takes from each what the index says is there.
Status open_shards(const fs::path& dir, TensorMap& tensors, std::vector<std::string>& names) {
  const auto shards = KV8_TRY(read_index(dir / kIndex));
  std::map<std::string, std::string, std::less<>> found_in;
  for (const auto& [shard, expected] : shards) {
    const SafetensorsFile file = KV8_TRY(SafetensorsFile::open(dir / shard));
    for (const auto& [name, view] : file.tensors()) {
      const auto [earlier, is_new] = found_in.emplace(name, shard);
      if (!is_new) {
        return bad_input("{}: tensor {} is in {} too", file.path().string(), printable(name),
                         printable(earlier->second));
      }
    }
    for (const std::string& name : expected) {
      const auto view = file.tensor(name);
      if (!view.ok()) return view.error().within((dir / kIndex).string());
      tensors.emplace(name, *view);
      names.push_back(name);
    }
  }
  return {};
}

Status open_tensors(const fs::path& dir, TensorMap& tensors, std::vector<std::string>& names) {
  const bool single = path_exists(dir / kSingle), index = path_exists(dir / kIndex);
  if (single && index) {
    return bad_input("{}: both {} and {} are there; remove the one that is out of date",
                     dir.string(), kSingle, kIndex);
  }
  if (index) return open_shards(dir, tensors, names);
  if (!single) {
    return not_found("{}: neither {} nor {} is there", dir.string(), kSingle, kIndex);
  }
  const SafetensorsFile file = KV8_TRY(SafetensorsFile::open(dir / kSingle));
  for (const auto& [name, view] : file.tensors()) {
    tensors.emplace(name, view);
    names.push_back(name);
  }
  return {};
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

/// `allow_per_head` 0: shapes [] and [1] only.
Result<std::vector<float>> scale_values(const TensorView& tensor, const std::string& where,
                                        std::int64_t allow_per_head) {
  const bool scalar = tensor.shape.empty() || tensor.shape == Shape{1};
  if (!scalar && (allow_per_head == 0 || tensor.shape != Shape{allow_per_head})) {
    return bad_input("{} has shape {}, expected [] or [1]{}", where, shape_text(tensor.shape),
                     allow_per_head > 0 ? fmt::format(" or [{}] (one a KV head)", allow_per_head)
                                        : std::string());
  }
  if (!is_float(tensor.dtype)) {
    return bad_input("{} is of type {}, expected F32", where, dtype_name(tensor.dtype));
  }
  const std::vector<float> values = KV8_TRY(to_float(tensor));
  for (const float value : values) {
    if (!std::isfinite(value) || value <= 0.0f) {
      return bad_input("{} is {}, expected a positive finite number; quantize the model again",
                       where, value);
    }
  }
  return values;
}

/// A scale has one of two names; the one that is there, or nullptr.
Result<const TensorView*> find_scale(const TensorMap& tensors, const std::string& modelopt,
                                     const std::string& compressed, std::string_view dir) {
  const auto first = tensors.find(modelopt), second = tensors.find(compressed);
  if (first != tensors.end() && second != tensors.end()) {
    return bad_input("{}: both {} and {} are there, expected one", dir, modelopt, compressed);
  }
  if (first != tensors.end()) return &first->second;
  if (second != tensors.end()) return &second->second;
  return static_cast<const TensorView*>(nullptr);
}

/// Transforms that come with FP8_KV8 only: ignoring them would give wrong numbers.
Status refuse_transforms(const TensorMap& tensors, const std::string& attention,
                         std::string_view dir) {
  for (const char* name : {"k_offset", "v_offset", "k_feedback"}) {
    if (tensors.contains(attention + name)) {
      return unsupported(
          "{}: tensor {}{} belongs to KV cache format \"FP8_KV8\", which is not "
          "supported by this version",
          dir, attention, name);
    }
  }
  return {};
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const fs::path& dir) {
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored)) return not_found("{}: not a folder", dir.string());
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  checkpoint.config_ = KV8_TRY(read_model_config(dir));
  checkpoint.quantization_ = KV8_TRY(read_quantization(dir, checkpoint.config_));
  KV8_TRY(open_tensors(dir, checkpoint.tensors_, checkpoint.names_));
  return checkpoint;
}

Checkpoint Checkpoint::in_memory(std::string name, ModelConfig config,
                                 QuantizationInfo quantization, TensorMap tensors) {
  Checkpoint checkpoint;
  checkpoint.dir_ = std::move(name);
  checkpoint.config_ = std::move(config);
  checkpoint.quantization_ = std::move(quantization);
  for (const auto& [tensor, view] : tensors) checkpoint.names_.push_back(tensor);
  checkpoint.tensors_ = std::move(tensors);
  return checkpoint;
}

Result<Checkpoint> Checkpoint::first_layers(std::int32_t count) const {
  if (count < 1 || count > config_.num_layers) {
    return usage_error("{}: {} layers asked for, the model has {}", dir_.string(), count,
                       config_.num_layers);
  }
  Checkpoint cut = *this;
  cut.config_.num_layers = count;
  return cut;
}

bool Checkpoint::has(std::string_view tensor) const { return tensors_.contains(tensor); }

Result<TensorView> Checkpoint::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return not_found("{}: tensor {} is missing", dir_.string(), name);
  }
  return found->second;
}

Result<TensorView> Checkpoint::weight(std::string_view name, const Shape& shape) const {
  TensorView view = KV8_TRY(tensor(name));
  if (view.shape != shape) {
    return bad_input("{}: tensor {} has shape {}, expected {} by config.json", dir_.string(), name,
                     shape_text(view.shape), shape_text(shape));
  }
  if (!is_float(view.dtype)) {
    return unsupported("{}: tensor {} is of type {}, expected F16, BF16 or F32", dir_.string(),
                       name, dtype_name(view.dtype));
  }
  return view;
}

Result<std::vector<LayerKvScales>> Checkpoint::kv_scales() const {
  KV8_CHECK(quantization_.kv_cache_fp8, "{}: kv_scales() of a checkpoint without FP8 KV",
            dir_.string());
  std::vector<LayerKvScales> layers(static_cast<std::size_t>(config_.num_layers));
  const std::string dir = dir_.string();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string attention = fmt::format("model.layers.{}.self_attn.", i);
    KV8_TRY(refuse_transforms(tensors_, attention, dir));
    const auto read = [&](char letter, std::int64_t per_head,
                          bool required) -> Result<std::vector<float>> {
      const std::string modelopt = fmt::format("{}{}_proj.{}_scale", attention, letter, letter);
      const std::string compressed = fmt::format("{}{}_scale", attention, letter);
      const TensorView* found = KV8_TRY(find_scale(tensors_, modelopt, compressed, dir));
      if (found == nullptr && !required) return std::vector<float>();
      if (found == nullptr) {
        return not_found(
            "{}: {} says that the KV cache is FP8, but tensor {} is missing; quantize "
            "the model again",
            dir, quantization_.source, modelopt);
      }
      const bool first = tensors_.contains(modelopt);
      return scale_values(*found, fmt::format("{}: tensor {}", dir, first ? modelopt : compressed),
                          per_head);
    };
    layers[i].k = KV8_TRY(read('k', config_.num_kv_heads, true));
    layers[i].v = KV8_TRY(read('v', config_.num_kv_heads, true));
    layers[i].q = KV8_TRY(read('q', 0, false));
  }
  return layers;
}

}  // namespace kv8::io
