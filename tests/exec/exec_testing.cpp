#include "exec/exec_testing.h"

#include "base/file.h"
#include "io/safetensors.h"

namespace kv8::exec {
namespace {

/// Row `layer` of a golden [layers, count] tensor, as a tensor of its own.
TensorView scale_row(const io::SafetensorsFile& golden, const std::string& name, std::size_t layer) {
  const TensorView all = golden.tensor(name).value();
  const auto count = static_cast<std::size_t>(all.shape[1]);
  const std::vector<float> values = to_float(all).value();
  const std::span<const float> row = std::span(values).subspan(layer * count, count);
  return tensor_from_floats(row, count == 1 ? Shape{} : Shape{all.shape[1]});
}

}  // namespace

void write_fp8_checkpoint(const std::string& name, Scales scales,
                          const std::filesystem::path& dir) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(tiny_model(name)).value();
  const auto golden =
      io::SafetensorsFile::open(test_data() / "golden" / ("fp8_kv_" + name + ".safetensors")).value();
  std::vector<io::NamedTensor> tensors;
  for (const std::string& tensor : checkpoint.tensor_names()) {
    tensors.push_back({tensor, checkpoint.tensor(tensor).value()});
  }
  const std::string suffix = scales == Scales::kPerHead ? "_per_head" : "";
  for (int i = 0; i < checkpoint.config().num_layers; ++i) {
    const std::string self = fmt::format("model.layers.{}.self_attn.", i);
    const auto layer = static_cast<std::size_t>(i);
    tensors.push_back({self + "k_proj.k_scale", scale_row(golden, "k_scale" + suffix, layer)});
    tensors.push_back({self + "v_proj.v_scale", scale_row(golden, "v_scale" + suffix, layer)});
    tensors.push_back({self + "q_proj.q_scale", scale_row(golden, "q_scale", layer)});
  }
  std::filesystem::create_directories(dir);
  ASSERT_TRUE(io::write_safetensors(dir / "model.safetensors", tensors).ok());
  ASSERT_TRUE(copy_file(tiny_model(name) / "config.json", dir / "config.json").ok());
  test::write_bytes(dir / "hf_quant_config.json",
                    R"({"producer": {"name": "kv8", "version": "0.1.0"}, "quantization": )"
                    R"({"quant_algo": null, "kv_cache_quant_algo": "FP8", "exclude_modules": []}})");
}

void add_text_files(const std::filesystem::path& dir) {
  const auto from = test_data() / "tokenizers" / "llama2";
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    ASSERT_TRUE(copy_file(from / name, dir / name).ok());
  }
  test::write_bytes(dir / "processed_chat_template.json", R"({
  "model_path": "tiny", "content_types": {},
  "roles": {"system": {"prefix": "<s>", "suffix": "\n"}, "user": {"prefix": "<u>", "suffix": "\n"},
            "assistant": {"prefix": "<a>", "suffix": "\n"}},
  "generation_prompt": "<a>", "default_system_prompt": ""
})");
}

}  // namespace kv8::exec
