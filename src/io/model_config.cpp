#include "io/model_config.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/file.h"
#include "base/json.h"
#include "io/paths.h"
#include "io/rope_config.h"

namespace kv8::io {
namespace {

// Bounds far above every published model of these families and far below what would make a size
// computed from two of them overflow, or an allocation absurd.
constexpr std::int64_t kMaxWidth = 1 << 20;
constexpr std::int64_t kMaxVocab = 1 << 22;
constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxHeads = 1024;
constexpr std::int64_t kMaxHeadDim = 1024;
constexpr std::int64_t kMaxPositions = 1 << 26;
constexpr std::uint64_t kMaxConfigBytes = 1 << 20;

struct FamilyName {
  std::string_view model_type;
  Family family;
};
constexpr std::array<FamilyName, 4> kFamilies = {{{"llama", Family::kLlama},
                                                  {"mistral", Family::kMistral},
                                                  {"qwen2", Family::kQwen2},
                                                  {"qwen3", Family::kQwen3}}};

bool present(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

Result<std::int32_t> bounded(const Json& json, const char* key, std::string_view source,
                             std::int64_t max) {
  return static_cast<std::int32_t>(KV8_TRY(json_int(json, key, source, 1, max)));
}

Status read_family(const Json& json, std::string_view source, ModelConfig& config) {
  config.model_type = KV8_TRY(json_string(json, "model_type", source));
  for (const FamilyName& known : kFamilies) {
    if (known.model_type == config.model_type) {
      config.family = known.family;
      for (const char* key : {"vision_config", "audio_config"}) {
        if (present(json, key)) {
          return unsupported("{}: `{}`: kv8 runs text models only", source, key);
        }
      }
      return {};
    }
  }
  return unsupported("{}: `model_type` \"{}\" is not supported; supported are {}", source,
                     config.model_type, supported_model_types());
}

Status read_sizes(const Json& json, std::string_view source, ModelConfig& config) {
  config.hidden_size = KV8_TRY(bounded(json, "hidden_size", source, kMaxWidth));
  config.intermediate_size = KV8_TRY(bounded(json, "intermediate_size", source, kMaxWidth));
  config.vocab_size = KV8_TRY(bounded(json, "vocab_size", source, kMaxVocab));
  config.num_layers = KV8_TRY(bounded(json, "num_hidden_layers", source, kMaxLayers));
  config.num_heads = KV8_TRY(bounded(json, "num_attention_heads", source, kMaxHeads));
  config.max_position_embeddings =
      KV8_TRY(bounded(json, "max_position_embeddings", source, kMaxPositions));
  config.num_kv_heads = static_cast<std::int32_t>(
      KV8_TRY(json_int_or(json, "num_key_value_heads", source, 1, kMaxHeads, config.num_heads)));
  if (config.num_heads % config.num_kv_heads != 0) {
    return bad_input("{}: `num_attention_heads` {} is not a multiple of `num_key_value_heads` {}",
                     source, config.num_heads, config.num_kv_heads);
  }
  std::int64_t derived =
      config.hidden_size % config.num_heads == 0 ? config.hidden_size / config.num_heads : 0;
  if (config.family == Family::kQwen3) derived = 128;  // whatever its hidden size
  config.head_dim = static_cast<std::int32_t>(
      KV8_TRY(json_int_or(json, "head_dim", source, 1, kMaxHeadDim, derived)));
  if (config.head_dim == 0) {
    return bad_input(
        "{}: `head_dim` is missing, and `hidden_size` {} is not a multiple of "
        "`num_attention_heads` {}",
        source, config.hidden_size, config.num_heads);
  }
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim) {
    return bad_input("{}: `head_dim` is {}, expected an even number up to {}", source,
                     config.head_dim, kMaxHeadDim);
  }
  return {};
}

Status read_details(const Json& json, std::string_view source, ModelConfig& config) {
  const std::string activation = KV8_TRY(json_string_or(json, "hidden_act", source, "silu"));
  if (activation != "silu" && activation != "swish") {
    return unsupported("{}: `hidden_act` \"{}\" is not supported, only \"silu\" is", source,
                       activation);
  }
  const double eps = KV8_TRY(json_number_or(json, "rms_norm_eps", source, 1e-6));
  if (eps < 0.0 || eps > 1.0) {
    return bad_input("{}: `rms_norm_eps` is {}, expected a number from 0 to 1", source, eps);
  }
  config.rms_norm_eps = static_cast<float>(eps);
  config.tie_word_embeddings = KV8_TRY(json_bool_or(json, "tie_word_embeddings", source, false));
  const bool bias = KV8_TRY(json_bool_or(json, "attention_bias", source, false));
  const bool mlp_bias = KV8_TRY(json_bool_or(json, "mlp_bias", source, false));
  const bool reads_bias = config.family == Family::kLlama || config.family == Family::kQwen3;
  config.attention_output_bias = reads_bias && bias;
  config.attention_bias = config.family == Family::kQwen2 || config.attention_output_bias;
  config.mlp_bias = config.family == Family::kLlama && mlp_bias;
  return {};
}

Status read_dtype(const Json& json, std::string_view source, ModelConfig& config) {
  const char* key = present(json, "dtype") ? "dtype" : "torch_dtype";
  std::string name = KV8_TRY(json_string_or(json, key, source, "float16"));
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name == "float16") {
    config.dtype = DType::kF16;
  } else if (name == "bfloat16") {
    config.dtype = DType::kBF16;
  } else if (name == "float32") {
    config.dtype = DType::kF32;
  } else {
    return unsupported("{}: `{}` \"{}\" is not supported; supported are float16, bfloat16, float32",
                       source, key, name);
  }
  return {};
}

/// True if a layer would look back over fewer positions than the model has.
Result<bool> slides(const Json& json, std::string_view source, const ModelConfig& config) {
  if (config.family == Family::kLlama || !present(json, "sliding_window")) return false;
  const std::int64_t window =
      KV8_TRY(json_int(json, "sliding_window", source, 0, std::int64_t{1} << 40));
  if (window >= config.max_position_embeddings) return false;
  if (config.family == Family::kMistral) return true;
  if (!KV8_TRY(json_bool_or(json, "use_sliding_window", source, false))) return false;
  if (present(json, "layer_types")) return false;  // they decide, see check_attention
  // Qwen: the first max_window_layers layers see everything.
  const std::int64_t full_layers =
      KV8_TRY(json_int_or(json, "max_window_layers", source, 0, kMaxPositions, 28));
  return full_layers < config.num_layers;
}

Status check_attention(const Json& json, std::string_view source, const ModelConfig& config) {
  bool sliding = KV8_TRY(slides(json, source, config));
  if (present(json, "layer_types") && config.family != Family::kLlama) {
    const Json& types = json["layer_types"];
    if (!types.is_array()) return bad_input("{}: `layer_types` is not a list", source);
    const bool narrow = present(json, "sliding_window") &&
                        KV8_TRY(json_int(json, "sliding_window", source, 0,
                                         std::int64_t{1} << 40)) < config.max_position_embeddings;
    for (const Json& type : types) {
      if (type == "full_attention") continue;
      if (type != "sliding_attention") {
        return unsupported("{}: `layer_types` holds {}, only \"full_attention\" is supported",
                           source, type.dump(-1, ' ', true, Json::error_handler_t::replace));
      }
      sliding = sliding || narrow;
    }
  }
  if (sliding) {
    return unsupported(
        "{}: `sliding_window` {} is smaller than `max_position_embeddings` {}, and sliding-window "
        "attention is not supported; set `max_position_embeddings` to the window's size to use the "
        "model within it",
        source, json["sliding_window"].dump(), config.max_position_embeddings);
  }
  return {};
}

Result<std::int32_t> token_id(const Json& value, const char* key, std::string_view source,
                              const ModelConfig& config) {
  const Json wrapped = {{key, value}};
  return static_cast<std::int32_t>(
      KV8_TRY(json_int(wrapped, key, source, 0, config.vocab_size - 1)));
}

/// Appends the ids of `eos_token_id` (one, a list, or null) that are not there yet.
Status merge_eos(const Json& json, std::string_view source, ModelConfig& config) {
  constexpr const char* kKey = "eos_token_id";
  constexpr std::size_t kMaxIds = 1024;
  if (!present(json, kKey)) return {};
  const Json& value = json[kKey];
  const Json list = value.is_array() ? value : Json::array({value});
  if (list.size() > kMaxIds) {
    return bad_input("{}: `{}` has {} entries, more than {}", source, kKey, list.size(), kMaxIds);
  }
  for (const Json& entry : list) {
    const std::int32_t id = KV8_TRY(token_id(entry, kKey, source, config));
    auto& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return {};
}

Status read_tokens(const Json& json, std::string_view source, ModelConfig& config) {
  constexpr const char* kBos = "bos_token_id";
  if (present(json, kBos) && json[kBos] != -1) {
    config.bos_token_id = KV8_TRY(token_id(json[kBos], kBos, source, config));
  }
  return merge_eos(json, source, config);
}

}  // namespace

std::string_view supported_model_types() { return "llama, mistral, qwen2, qwen3"; }

Result<ModelConfig> parse_model_config(std::string_view json_text, std::string_view source) {
  if (json_text.size() > kMaxConfigBytes) {
    return bad_input("{}: {} bytes, more than the {} that kv8 reads of a configuration", source,
                     json_text.size(), kMaxConfigBytes);
  }
  const Json json = KV8_TRY(parse_json(json_text, source));
  if (!json.is_object()) return bad_input("{}: not a JSON object", source);
  ModelConfig config;
  config.raw_json = std::string(json_text);
  KV8_TRY(read_family(json, source, config));
  KV8_TRY(read_sizes(json, source, config));
  KV8_TRY(read_details(json, source, config));
  KV8_TRY(read_dtype(json, source, config));
  KV8_TRY(check_attention(json, source, config));
  config.rope = KV8_TRY(parse_rope_config(json, source));
  config.rope.head_dim = config.head_dim;
  config.rope.max_position = config.max_position_embeddings;
  KV8_TRY(read_tokens(json, source, config));
  return config;
}

Result<ModelConfig> read_model_config(const std::filesystem::path& dir) {
  const auto path = dir / "config.json";
  const std::string text = KV8_TRY(read_text_file(path, kMaxConfigBytes));
  ModelConfig config = KV8_TRY(parse_model_config(text, path.string()));
  const auto generation = dir / "generation_config.json";
  if (path_exists(generation)) {
    const std::string generation_text = KV8_TRY(read_text_file(generation, kMaxConfigBytes));
    const Json json = KV8_TRY(parse_json(generation_text, generation.string()));
    if (!json.is_object()) return bad_input("{}: not a JSON object", generation.string());
    KV8_TRY(merge_eos(json, generation.string(), config));
  }
  return config;
}

}  // namespace kv8::io
