#include "bench/geometry.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <random>

#include "base/json.h"
#include "base/thread_pool.h"
#include "formats/float_formats.h"

namespace kv8::bench {
namespace {

struct Geometry {
  std::string_view name, config;
};

// From the models' own config.json on Hugging Face: Qwen/Qwen3-*, Qwen/Qwen2.5-*,
// meta-llama/Llama-3.*, HuggingFaceTB/SmolLM2-135M.
constexpr std::array<Geometry, 8> kGeometries = {{
    {"smollm2-135m", R"({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
      "vocab_size": 49152, "num_hidden_layers": 30, "num_attention_heads": 9,
      "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": true, "rope_theta": 100000})"},
    {"qwen2.5-0.5b", R"({"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
      "vocab_size": 151936, "num_hidden_layers": 24, "num_attention_heads": 14,
      "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
      "tie_word_embeddings": true, "rope_theta": 1000000})"},
    {"qwen3-0.6b", R"({"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
      "vocab_size": 151936, "num_hidden_layers": 28, "num_attention_heads": 16,
      "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
      "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 1000000})"},
    {"llama-3.2-1b", R"({"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
      "vocab_size": 128256, "num_hidden_layers": 16, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": true, "rope_theta": 500000,
      "rope_scaling": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1,
        "high_freq_factor": 4, "original_max_position_embeddings": 8192}})"},
    {"llama-3.2-3b", R"({"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192,
      "vocab_size": 128256, "num_hidden_layers": 28, "num_attention_heads": 24,
      "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
      "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "rope_theta": 500000,
      "rope_scaling": {"rope_type": "llama3", "factor": 32, "low_freq_factor": 1,
        "high_freq_factor": 4, "original_max_position_embeddings": 8192}})"},
    {"qwen2.5-7b", R"({"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
      "vocab_size": 152064, "num_hidden_layers": 28, "num_attention_heads": 28,
      "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
      "tie_word_embeddings": false, "rope_theta": 1000000})"},
    {"llama-3.1-8b", R"({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
      "vocab_size": 128256, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": false, "rope_theta": 500000,
      "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
        "high_freq_factor": 4, "original_max_position_embeddings": 8192}})"},
    {"qwen3-8b", R"({"model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
      "vocab_size": 151936, "num_hidden_layers": 36, "num_attention_heads": 32,
      "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
      "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "rope_theta": 1000000})"},
}};

constexpr float kDeviation = 0.02f;
constexpr std::size_t kBlockElements = std::size_t{1} << 22;
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;  // copied at a time
constexpr std::size_t kShiftBytes = 2 * 5003;  // between the pieces' places in the block

std::uint16_t encode(float value, DType dtype) {
  return dtype == DType::kF16 ? f16_from_float(value) : bf16_from_float(value);
}

/// Names and shapes of a model's tensors, in an order that lays fused products side by side.
class TensorList {
 public:
  struct Entry {
    std::string name;
    Shape shape;
    bool ones;
    std::int64_t count() const { return checked_num_elements(shape).value(); }
  };
  explicit TensorList(const io::ModelConfig& config) : config_(config) {
    matrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size);
    for (int layer = 0; layer < config.num_layers; ++layer) add_layer(layer);
    ones("model.norm.weight", config.hidden_size);
    if (!config.tie_word_embeddings)
      matrix("lm_head.weight", config.vocab_size, config.hidden_size);
  }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  void add_layer(int layer) {
    const std::string in = fmt::format("model.layers.{}.", layer);
    const std::string attention = in + "self_attn.";
    const std::int64_t q = std::int64_t{config_.num_heads} * config_.head_dim;
    const std::int64_t kv = std::int64_t{config_.num_kv_heads} * config_.head_dim;
    const std::int64_t hidden = config_.hidden_size, inner = config_.intermediate_size;
    ones(in + "input_layernorm.weight", hidden);
    matrix(attention + "q_proj.weight", q, hidden);
    matrix(attention + "k_proj.weight", kv, hidden);
    matrix(attention + "v_proj.weight", kv, hidden);
    if (config_.attention_bias) {
      entries_.push_back({attention + "q_proj.bias", {q}, false});
      entries_.push_back({attention + "k_proj.bias", {kv}, false});
      entries_.push_back({attention + "v_proj.bias", {kv}, false});
    }
    if (config_.family == io::Family::kQwen3) {
      ones(attention + "q_norm.weight", config_.head_dim);
      ones(attention + "k_norm.weight", config_.head_dim);
    }
    matrix(attention + "o_proj.weight", hidden, q);
    ones(in + "post_attention_layernorm.weight", hidden);
    matrix(in + "mlp.gate_proj.weight", inner, hidden);
    matrix(in + "mlp.up_proj.weight", inner, hidden);
    matrix(in + "mlp.down_proj.weight", hidden, inner);
  }
  void matrix(std::string name, std::int64_t rows, std::int64_t cols) {
    entries_.push_back({std::move(name), {rows, cols}, false});
  }
  void ones(std::string name, std::int64_t size) {
    entries_.push_back({std::move(name), {size}, true});
  }

  const io::ModelConfig& config_;
  std::vector<Entry> entries_;
};

std::vector<std::uint16_t> random_block(DType dtype) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, kDeviation);
  std::vector<std::uint16_t> block(kBlockElements);
  for (std::uint16_t& value : block) value = encode(normal(random), dtype);
  return block;
}

void fill_with_block(std::byte* to, std::size_t bytes, const std::vector<std::uint16_t>& block) {
  const auto* from = reinterpret_cast<const std::byte*>(block.data());
  const std::size_t places = block.size() * 2 - kPieceBytes;
  ThreadPool threads;
  threads.parallel_tasks(
      static_cast<std::int64_t>((bytes + kPieceBytes - 1) / kPieceBytes),
      [&](std::int64_t piece, int) {
        const std::size_t begin = static_cast<std::size_t>(piece) * kPieceBytes;
        const std::size_t place = static_cast<std::size_t>(piece) * kShiftBytes % places;
        std::memcpy(to + begin, from + place, std::min(kPieceBytes, bytes - begin));
      });
}

using TensorMap = std::map<std::string, TensorView, std::less<>>;

/// Throws std::bad_alloc.
TensorMap random_tensors(const std::vector<TensorList::Entry>& entries, DType dtype) {
  constexpr std::size_t kAlignment = 64;
  std::vector<std::size_t> offsets;
  std::size_t total = 0;
  for (const TensorList::Entry& entry : entries) {
    offsets.push_back(total);
    const auto bytes = static_cast<std::size_t>(entry.count()) * 2;
    total += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  const auto memory = std::make_shared<Buffer>(total);
  fill_with_block(memory->data(), total, random_block(dtype));
  TensorMap tensors;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto count = static_cast<std::size_t>(entries[i].count());
    auto* values = reinterpret_cast<std::uint16_t*>(memory->data() + offsets[i]);
    if (entries[i].ones) std::fill_n(values, count, encode(1.0f, dtype));
    tensors[entries[i].name] = {
        dtype, entries[i].shape, {memory->data() + offsets[i], count * 2}, memory};
  }
  return tensors;
}

/// Scales as ModelOpt stores them.
void add_scales(const io::ModelConfig& config, TensorMap& tensors) {
  constexpr float kDeviations = 6.0f, kLargestE4m3 = 448.0f;
  // A row of a matrix times a vector whose squares average 1.
  const float projected = kDeviation * std::sqrt(static_cast<float>(config.hidden_size));
  const float normed = config.family == io::Family::kQwen3 ? 1.0f : projected;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const auto add = [&](char letter, float deviation) {
      const float scale = kDeviations * deviation / kLargestE4m3;
      tensors[fmt::format("model.layers.{}.self_attn.{}_proj.{}_scale", layer, letter, letter)] =
          tensor_from_floats(std::span(&scale, 1), {1});
    };
    add('q', normed);
    add('k', normed);
    add('v', projected);
  }
}

}  // namespace

std::vector<std::string> geometry_names() {
  std::vector<std::string> names;
  for (const Geometry& geometry : kGeometries) names.emplace_back(geometry.name);
  return names;
}

Result<io::ModelConfig> geometry_config(std::string_view name, std::int32_t num_layers) {
  for (const Geometry& geometry : kGeometries) {
    if (geometry.name != name) continue;
    io::ModelConfig config = KV8_TRY(io::parse_model_config(geometry.config, name));
    if (num_layers < 0 || num_layers > config.num_layers) {
      return usage_error("{} layers asked for, {} has {}", num_layers, name, config.num_layers);
    }
    if (num_layers > 0) config.num_layers = num_layers;
    return config;
  }
  return usage_error("geometry `{}` is not known; there are {}", name,
                     fmt::join(geometry_names(), ", "));
}

std::int64_t num_parameters(const io::ModelConfig& config) {
  std::int64_t count = 0;
  const TensorList list(config);
  for (const TensorList::Entry& entry : list.entries()) count += entry.count();
  return count;
}

Result<io::Checkpoint> random_checkpoint(const io::ModelConfig& config, DType dtype) {
  KV8_CHECK(dtype == DType::kF16 || dtype == DType::kBF16, "random weights in {}",
            dtype_name(dtype));
  try {
    TensorMap tensors = random_tensors(TensorList(config).entries(), dtype);
    add_scales(config, tensors);
    io::ModelConfig typed = config;
    typed.dtype = dtype;
    return io::Checkpoint::in_memory(
        "random weights", std::move(typed),
        {.kv_cache_fp8 = true, .kv_cache_algo = "FP8", .weight_algo = {}, .source = "the geometry"},
        std::move(tensors));
  } catch (const std::bad_alloc&) {
    return capacity_error("not enough memory for this geometry's weights");
  }
}

}  // namespace kv8::bench
