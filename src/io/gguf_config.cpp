#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "io/gguf_import.h"
#include "io/gguf_metadata.h"

namespace kv8::io {
namespace {

constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();

struct Architecture {
  std::string_view name;  ///< GGUF's and Hugging Face's model_type alike
  std::string_view class_name;
};
constexpr std::array<Architecture, 3> kArchitectures = {
    {{"llama", "LlamaForCausalLM"}, {"qwen2", "Qwen2ForCausalLM"}, {"qwen3", "Qwen3ForCausalLM"}}};

const GgufTensor* find_tensor(const GgufFile& file, std::string_view name) {
  const auto& tensors = file.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const GgufTensor& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

Result<const Architecture*> find_architecture(const GgufMetadata& metadata) {
  const std::string name = KV8_TRY(metadata.string("general.architecture"));
  for (const Architecture& known : kArchitectures) {
    if (known.name == name) return &known;
  }
  return unsupported("{}: architecture \"{}\" is not supported; supported are llama, qwen2, qwen3",
                     metadata.source(), name);
}

/// Reads `<architecture>.<key>` and writes it under Hugging Face's name.
class ConfigBuilder {
 public:
  ConfigBuilder(const GgufMetadata& metadata, std::string_view architecture)
      : metadata_(metadata), prefix_(std::string(architecture) + ".") {}

  std::string key(std::string_view name) const { return prefix_ + std::string(name); }
  Result<std::int64_t> integer(std::string_view name) const {
    return metadata_.integer(key(name), 1, kMaxInt);
  }
  Result<std::int64_t> integer_or(std::string_view name, std::int64_t fallback) const {
    return metadata_.integer_or(key(name), 0, kMaxInt, fallback);
  }
  Result<double> number(std::string_view name) const { return metadata_.number(key(name)); }
  Result<double> number_or(std::string_view name, double fallback) const {
    return metadata_.number_or(key(name), fallback);
  }
  Result<std::string> string_or(std::string_view name, std::string_view fallback) const {
    return metadata_.string_or(key(name), fallback);
  }
  bool has(std::string_view name) const { return metadata_.has(key(name)); }
  const std::string& source() const { return metadata_.source(); }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

Status refuse_unsupported(const ConfigBuilder& in, std::int64_t context, std::int64_t head_dim) {
  const auto refuse = [&](std::string_view key, std::string_view what) {
    return unsupported("{}: {}: {} not supported", in.source(), in.key(key), what);
  };
  if (KV8_TRY(in.integer_or("expert_count", 0)) > 0) {
    return refuse("expert_count", "mixture-of-experts models are");
  }
  const std::int64_t window = KV8_TRY(in.integer_or("attention.sliding_window", 0));
  if (window > 0 && window < context) {
    return refuse("attention.sliding_window", "sliding-window attention is");
  }
  if (KV8_TRY(in.integer_or("rope.dimension_count", head_dim)) != head_dim) {
    return refuse("rope.dimension_count", "rotating a part of the head is");
  }
  if (KV8_TRY(in.integer_or("attention.value_length", head_dim)) != head_dim) {
    return refuse("attention.value_length", "heads of K and V that differ in size are");
  }
  return {};
}

/// Llama 3's factors as its converters store them: by how much each frequency is divided.
double llama3_divisor(double inv_freq, double factor, double original) {
  constexpr double kLow = 1.0, kHigh = 4.0;
  const double wavelength = 2.0 * std::numbers::pi / inv_freq;
  if (wavelength < original / kHigh) return 1.0;
  if (wavelength > original / kLow) return factor;
  const double smooth = (original / wavelength - kLow) / (kHigh - kLow);
  return 1.0 / ((1.0 - smooth) / factor + smooth);
}

/// `rope_freqs.weight` holds divisors instead of the parameters that made them. Those of every
/// published Llama 3.1-3.3 differ in the factor alone, which is the largest divisor.
Result<Json> scaling_from_divisors(const ConfigBuilder& in, const GgufTensor& tensor, double theta,
                                   std::int64_t head_dim) {
  const std::vector<float> divisors = KV8_TRY(dequantize_gguf(tensor));
  if (static_cast<std::int64_t>(divisors.size()) * 2 != head_dim) {
    return bad_input("{}: tensor {} has {} values, expected {}", in.source(), tensor.name,
                     divisors.size(), head_dim / 2);
  }
  const double factor = *std::max_element(divisors.begin(), divisors.end());
  constexpr std::int64_t kOriginal = 8192;
  constexpr double kTolerance = 1e-4;
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    const double inv_freq = std::pow(theta, -2.0 * static_cast<double>(i) / double(head_dim));
    const double expected = llama3_divisor(inv_freq, factor, kOriginal);
    if (!(std::abs(divisors[i] - expected) <= kTolerance * expected)) {
      return unsupported(
          "{}: tensor {} is not Llama 3's RoPE scaling (value {} is {}, expected {}), and no other "
          "is supported",
          in.source(), tensor.name, i, divisors[i], expected);
    }
  }
  return Json{{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", 1.0},
              {"high_freq_factor", 4.0},
              {"original_max_position_embeddings", kOriginal}};
}

Result<Json> scaling_from_metadata(const ConfigBuilder& in) {
  for (const char* name :
       {"rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier"}) {
    if (in.has(name) && KV8_TRY(in.number(name)) != 1.0) {
      return unsupported("{}: {}: not supported", in.source(), in.key(name));
    }
  }
  const std::string stated = KV8_TRY(in.string_or("rope.scaling.type", "none"));
  const std::string_view type = stated;
  if (type == "none") return Json(nullptr);
  if (type != "linear" && type != "yarn") {
    return unsupported("{}: {} \"{}\" is not supported; supported are none, linear, yarn",
                       in.source(), in.key("rope.scaling.type"), type);
  }
  Json scaling = {{"rope_type", type}, {"factor", KV8_TRY(in.number("rope.scaling.factor"))}};
  if (type == "linear") return scaling;
  scaling["original_max_position_embeddings"] =
      KV8_TRY(in.integer("rope.scaling.original_context_length"));
  scaling["beta_fast"] = KV8_TRY(in.number_or("rope.scaling.yarn_beta_fast", 32.0));
  scaling["beta_slow"] = KV8_TRY(in.number_or("rope.scaling.yarn_beta_slow", 1.0));
  return scaling;
}

Status add_token_ids(const GgufMetadata& metadata, Json& config) {
  for (const char* name : {"bos", "padding"}) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    if (!metadata.has(key)) continue;
    config[name == std::string_view("bos") ? "bos_token_id" : "pad_token_id"] =
        KV8_TRY(metadata.integer(key, 0, kMaxInt));
  }
  // End of text, of a turn, of a message: a chat model may stop at any of them.
  Json eos = Json::array();
  for (const char* name : {"eos", "eot", "eom"}) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    if (!metadata.has(key)) continue;
    const Json id = KV8_TRY(metadata.integer(key, 0, kMaxInt));
    if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
  }
  if (!eos.empty()) config["eos_token_id"] = eos.size() == 1 ? eos[0] : eos;
  return {};
}

Result<std::int64_t> vocab_size(const GgufFile& file, const ConfigBuilder& in) {
  const GgufTensor* embedding = find_tensor(file, "token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return bad_input("{}: tensor token_embd.weight is missing or not a matrix", in.source());
  }
  const std::int64_t rows = embedding->shape[0];
  const std::int64_t stated = KV8_TRY(in.integer_or("vocab_size", rows));
  if (stated != rows) {
    return bad_input("{}: {} is {}, but token_embd.weight has {} rows", in.source(),
                     in.key("vocab_size"), stated, rows);
  }
  return rows;
}

}  // namespace

Result<Json> imported_config(const GgufFile& file) {
  const GgufMetadata metadata(file);
  const Architecture* architecture = KV8_TRY(find_architecture(metadata));
  const ConfigBuilder in(metadata, architecture->name);
  const std::int64_t hidden = KV8_TRY(in.integer("embedding_length"));
  const std::int64_t heads = KV8_TRY(in.integer("attention.head_count"));
  const std::int64_t head_dim = KV8_TRY(in.integer_or("attention.key_length", hidden / heads));
  const std::int64_t context = KV8_TRY(in.integer("context_length"));
  KV8_TRY(refuse_unsupported(in, context, head_dim));
  const double theta = KV8_TRY(in.number_or("rope.freq_base", 10000.0));

  Json config;
  config["architectures"] = {architecture->class_name};
  config["attention_dropout"] = 0.0;
  if (architecture->name == "llama") {
    config["attention_bias"] = find_tensor(file, "blk.0.attn_q.bias") != nullptr;
    config["mlp_bias"] = find_tensor(file, "blk.0.ffn_gate.bias") != nullptr;
  } else if (architecture->name == "qwen3") {
    config["attention_bias"] = find_tensor(file, "blk.0.attn_q.bias") != nullptr;
  } else {
    config["use_sliding_window"] = false;
  }
  KV8_TRY(add_token_ids(metadata, config));
  config["head_dim"] = head_dim;
  config["hidden_act"] = "silu";
  config["hidden_size"] = hidden;
  config["intermediate_size"] = KV8_TRY(in.integer("feed_forward_length"));
  config["max_position_embeddings"] = context;
  config["model_type"] = architecture->name;
  config["num_attention_heads"] = heads;
  config["num_hidden_layers"] = KV8_TRY(in.integer("block_count"));
  config["num_key_value_heads"] = KV8_TRY(in.integer_or("attention.head_count_kv", heads));
  config["rms_norm_eps"] = KV8_TRY(in.number("attention.layer_norm_rms_epsilon"));
  const GgufTensor* divisors = find_tensor(file, "rope_freqs.weight");
  config["rope_scaling"] = divisors != nullptr
                               ? KV8_TRY(scaling_from_divisors(in, *divisors, theta, head_dim))
                               : KV8_TRY(scaling_from_metadata(in));
  config["rope_theta"] = theta;
  config["tie_word_embeddings"] = find_tensor(file, "output.weight") == nullptr;
  config["torch_dtype"] = "float16";
  config["vocab_size"] = KV8_TRY(vocab_size(file, in));
  return config;
}

Json imported_generation_config(const Json& config) {
  Json generation = Json::object();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    if (config.contains(key)) generation[key] = config[key];
  }
  return generation;
}

}  // namespace kv8::io
