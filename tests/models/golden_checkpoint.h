// The tiny checkpoints of tests/data/models, as they are and with FP8 KV scales added.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "base/temp_dir.h"
#include "io/checkpoint.h"

namespace kv8::models {

inline const std::vector<std::string>& golden_models() {
  static const std::vector<std::string> kNames = {"llama2_linear", "llama3", "llama_yarn",
                                                  "mistral",       "qwen2",  "qwen3"};
  return kNames;
}

inline std::filesystem::path golden_dir(const std::string& name) {
  return std::filesystem::path(KV8_TEST_DATA) / "models" / name;
}

inline io::Checkpoint open_golden(const std::string& name) {
  return io::Checkpoint::open(golden_dir(name)).value();
}

/// Scales that differ by layer, between K, V and Q, and by 10x between heads.
inline float test_scale(int layer, char letter, int head) {
  const float base = letter == 'k' ? 0.01f : letter == 'v' ? 0.02f : 0.006f;
  return base * static_cast<float>(layer + 1) * (head % 2 == 0 ? 1.0f : 10.0f);
}

inline io::NamedTensor scale_tensor(int layer, char letter, int heads) {
  std::vector<float> values;
  for (int head = 0; head < heads; ++head) values.push_back(test_scale(layer, letter, head));
  return {fmt::format("model.layers.{}.self_attn.{}_proj.{}_scale", layer, letter, letter),
          tensor_from_floats(values, heads == 1 ? Shape{} : Shape{heads})};
}

struct Fp8Options {
  bool per_head = false;
  bool q_scale = true;
  std::set<std::string> without;  ///< tensors to leave out
};

/// Copies a golden checkpoint into `dir` and adds scales and hf_quant_config.json.
inline void write_fp8_checkpoint(const std::string& name, const std::filesystem::path& dir,
                                 const Fp8Options& options = {}) {
  const io::Checkpoint plain = open_golden(name);
  const io::ModelConfig& config = plain.config();
  std::vector<io::NamedTensor> tensors;
  for (const std::string& tensor : plain.tensor_names()) {
    tensors.push_back({tensor, plain.tensor(tensor).value()});
  }
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const int heads = options.per_head ? config.num_kv_heads : 1;
    tensors.push_back(scale_tensor(layer, 'k', heads));
    tensors.push_back(scale_tensor(layer, 'v', heads));
    if (options.q_scale) tensors.push_back(scale_tensor(layer, 'q', 1));
  }
  std::erase_if(tensors, [&](const auto& t) { return options.without.contains(t.name); });
  std::filesystem::create_directories(dir);
  ASSERT_TRUE(io::write_safetensors(dir / "model.safetensors", tensors).ok());
  std::filesystem::copy_file(golden_dir(name) / "config.json", dir / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  test::write_bytes(dir / "hf_quant_config.json", R"({"producer": {"name": "test"},
      "quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}})");
}

}  // namespace kv8::models
