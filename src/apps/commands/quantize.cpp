// kv8 quantize llm
#include "apps/command.h"
#include "quant/calibrate.h"

namespace kv8::apps {
namespace {

constexpr const char* kNoEagle = "EAGLE draft models are not supported by this version";

struct QuantizeFlags {
  std::string model_dir, output_dir, dataset;
  std::string quantization = "none", lm_head = "none", kv_cache = "none";
  std::string device = "auto", dtype = "fp16";
  std::int64_t num_samples = 512;
  bool per_head = false;
  int threads = 0;
};

Status quantize(const QuantizeFlags& flags, Terminal& terminal) {
  quant::QuantizeOptions options;
  options.model_dir = flags.model_dir;
  options.output_dir = flags.output_dir;
  options.kv_cache_fp8 = flags.kv_cache == "fp8";
  options.per_head = flags.per_head;
  options.calibration.dataset = flags.dataset;
  options.calibration.num_samples = flags.num_samples;
  options.calibration.num_threads = flags.threads;
  options.calibration.backend = flags.device;
  return quant::quantize_llm(options, terminal.reporter());
}

void define_llm(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<QuantizeFlags>();
  app.add_option("--model_dir", flags->model_dir, "Hugging Face folder to quantize")->required();
  app.add_option("--output_dir", flags->output_dir, "Folder to write the checkpoint to")
      ->required();
  app.add_option("--kv_cache_quantization", flags->kv_cache, "Format of the KV cache")
      ->check(one_of({"none", "fp8"}))
      ->capture_default_str();
  app.add_option("--quantization", flags->quantization, "Format of the weights")
      ->check(one_of({"none"}, {"fp8", "nvfp4", "int4_awq", "mxfp8", "int8_sq"}))
      ->capture_default_str();
  app.add_option("--lm_head_quantization", flags->lm_head, "Format of lm_head")
      ->check(one_of({"none"}, {"fp8", "nvfp4"}))
      ->capture_default_str();
  app.add_option("--dataset,--text_dataset", flags->dataset,
                 "Calibration text: a .txt or .jsonl file, a name under $KV8_DATASETS, or builtin\n"
                 "(default: cnn_dailymail if it is there, else builtin)");
  app.add_option("--num_samples", flags->num_samples, "Samples of 512 tokens at most")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--device", flags->device, "Where to calibrate")
      ->check(one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--dtype", flags->dtype, "Type of the weights written")
      ->check(one_of({"fp16"}))
      ->capture_default_str();
  app.add_flag("--per_head", flags->per_head, "One K and V scale per KV head instead of per layer");
  app.add_option("--threads", flags->threads, "CPU threads (0: all)")->check(CLI::Range(0, 1024));
  app.callback([flags, &action] {
    action = [flags](Terminal& terminal) { return quantize(*flags, terminal); };
  });
}

}  // namespace

void add_quantize(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("quantize", "Calibrate and write a quantized checkpoint");
  app->require_subcommand(1);
  define_llm(*app->add_subcommand("llm", "Quantize a language model"), action);
  CLI::App* draft = app->add_subcommand("draft", kNoEagle);
  draft->prefix_command();
  draft->group("");
  draft->callback([&action] {
    action = [](Terminal&) { return Status(usage_error("quantize draft: {}", kNoEagle)); };
  });
}

}  // namespace kv8::apps
