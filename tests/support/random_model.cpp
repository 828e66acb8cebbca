#include "support/random_model.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/safetensors.h"
#include "support/tiny_checkpoint.h"

namespace kv8::test {
namespace {

class Weights {
 public:
  explicit Weights(const RandomModel& model) : model_(model) {
    matrix("model.embed_tokens.weight", kRandomVocab, model.hidden);
    for (std::int32_t layer = 0; layer < model.layers; ++layer) add_layer(layer);
    norm("model.norm.weight", model.hidden);
    if (!model.tied) matrix("lm_head.weight", kRandomVocab, model.hidden);
  }
  const std::vector<io::NamedTensor>& tensors() const { return tensors_; }

 private:
  void add_layer(std::int32_t layer) {
    const std::string in = "model.layers." + std::to_string(layer) + ".";
    const std::string attention = in + "self_attn.";
    const std::int64_t q = std::int64_t{model_.heads} * model_.head_dim;
    const std::int64_t kv = std::int64_t{model_.kv_heads} * model_.head_dim;
    const std::string type = model_.model_type;
    norm(in + "input_layernorm.weight", model_.hidden);
    for (const auto& [letter, rows] : {std::pair{"q", q}, {"k", kv}, {"v", kv}}) {
      matrix(attention + letter + "_proj.weight", rows, model_.hidden);
      if (type == "qwen2") add(attention + letter + "_proj.bias", {rows}, 0.0f, 0.5f);
    }
    if (type == "qwen3") {
      norm(attention + "q_norm.weight", model_.head_dim);
      norm(attention + "k_norm.weight", model_.head_dim);
    }
    matrix(attention + "o_proj.weight", model_.hidden, q);
    norm(in + "post_attention_layernorm.weight", model_.hidden);
    matrix(in + "mlp.gate_proj.weight", model_.inner, model_.hidden);
    matrix(in + "mlp.up_proj.weight", model_.inner, model_.hidden);
    matrix(in + "mlp.down_proj.weight", model_.hidden, model_.inner);
  }
  void norm(const std::string& name, std::int64_t size) { add(name, {size}, 1.0f, 0.2f); }
  void matrix(const std::string& name, std::int64_t out, std::int64_t in) {
    add(name, {out, in}, 0.0f, 1.0f / std::sqrt(static_cast<float>(in)));
  }
  void add(const std::string& name, const Shape& shape, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> values(static_cast<std::size_t>(checked_num_elements(shape).value()));
    for (float& value : values) value = normal(random_);
    tensors_.push_back({name, convert(tensor_from_floats(values, shape), model_.dtype).value()});
  }

  const RandomModel& model_;
  std::mt19937 random_{29};
  std::vector<io::NamedTensor> tensors_;
};

Json config_of(const RandomModel& model) {
  Json config = {{"model_type", model.model_type},
                 {"hidden_act", "silu"},
                 {"hidden_size", model.hidden},
                 {"intermediate_size", model.inner},
                 {"num_attention_heads", model.heads},
                 {"num_key_value_heads", model.kv_heads},
                 {"head_dim", model.head_dim},
                 {"num_hidden_layers", model.layers},
                 {"vocab_size", kRandomVocab},
                 {"max_position_embeddings", 1024},
                 {"rms_norm_eps", 1e-6},
                 {"rope_theta", 10000.0},
                 {"tie_word_embeddings", model.tied},
                 {"bos_token_id", 1},
                 {"eos_token_id", 2},
                 {"torch_dtype", model.dtype == DType::kBF16 ? "bfloat16" : "float16"}};
  if (std::string(model.model_type) == "llama") {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 8.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 128}};
  }
  return config;
}

}  // namespace

void make_random_checkpoint(const RandomModel& model, const std::filesystem::path& dir) {
  write_tiny_tokenizer(dir);
  write_json_file(dir / "config.json", config_of(model)).value();
  io::write_safetensors(dir / "model.safetensors", Weights(model).tensors()).value();
}

}  // namespace kv8::test
