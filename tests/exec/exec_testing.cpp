#include "exec/exec_testing.h"

#include "io/safetensors.h"
#include "support/tiny_checkpoint.h"

namespace kv8::exec {
namespace {

/// Row `layer` of a golden [layers, count] tensor, as a tensor of its own.
TensorView scale_row(const io::SafetensorsFile& golden, const std::string& name,
                     std::size_t layer) {
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
      io::SafetensorsFile::open(test_data() / "golden" / ("fp8_kv_" + name + ".safetensors"))
          .value();
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
  test::make_tiny_checkpoint(name, dir);
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().filename().string().starts_with("model")) {
      std::filesystem::remove(entry.path());
    }
  }
  ASSERT_TRUE(io::write_safetensors(dir / "model.safetensors", tensors).ok());
  test::write_bytes(
      dir / "hf_quant_config.json",
      R"({"producer": {"name": "kv8", "version": "0.1.0"}, "quantization": )"
      R"({"quant_algo": null, "kv_cache_quant_algo": "FP8", "exclude_modules": []}})");
}

}  // namespace kv8::exec
