// kv8 build, llm_build
#include "apps/command.h"
#include "exec/backends.h"
#include "exec/engine.h"

namespace kv8::apps {
namespace {

struct BuildFlags {
  std::string onnx_dir, checkpoint_dir, engine_dir;
  std::string q_dtype = "fp8", kv_cache_memory;
  exec::BuilderConfig config;
};

Status build(const BuildFlags& flags, Terminal& terminal) {
  exec::BuilderConfig config = flags.config;
  config.backend = exec::choose_backend(config.backend, terminal.reporter());
  config.q_dtype = flags.q_dtype == "fp8" ? DType::kF8E4M3 : DType::kF16;
  if (!flags.checkpoint_dir.empty()) {
    return exec::build_engine_from_checkpoint(flags.checkpoint_dir, flags.engine_dir, config,
                                              terminal.reporter());
  }
  return exec::build_engine_from_onnx(flags.onnx_dir, flags.engine_dir, config,
                                      terminal.reporter());
}

}  // namespace

void define_build(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<BuildFlags>();
  CLI::Option_group* source = app.add_option_group("model");
  source->add_option("--onnxDir", flags->onnx_dir, "Exported model folder (…/llm)");
  source->add_option("--checkpointDir", flags->checkpoint_dir,
                     "Checkpoint folder, without ONNX on disk");
  source->require_option(1);
  app.add_option("--engineDir", flags->engine_dir, "Engine folder to write")->required();
  const auto positive = CLI::Range(1, 1 << 30);
  app.add_option("--maxInputLen", flags->config.max_input_len, "Longest prompt in tokens")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--maxKVCacheCapacity", flags->config.max_kv_cache_capacity,
                 "Longest sequence in tokens, prompt and answer")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--maxBatchSize", flags->config.max_batch_size, "Requests at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--kvCacheMemory", flags->config.kv_cache_memory,
                 "Bytes of the KV pool, e.g. 512MB (default: maxBatchSize x maxKVCacheCapacity)")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--qDtype", flags->q_dtype, "What Q is rounded to in FP8 attention")
      ->check(one_of({"fp8", "fp16"}))
      ->capture_default_str();
  app.add_option("--qkExponentShift", flags->config.qk_exponent_shift,
                 "Powers of two folded into the scales of FP8 Q and K (default: on a GPU what sums "
                 "of scores in FP16 need, on the CPU 0)")
      ->check(CLI::Range(0, kMaxQkExponentShift));
  flags->config.backend = "auto";
  app.add_option("--backend", flags->config.backend,
                 "Where the engine will run (auto: cuda if there is a GPU)")
      ->check(one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  for (const char* option : {"--specBase,--eagleBase", "--specDraft,--eagleDraft",
                             "--maxVerifyTreeSize", "--maxDraftTreeSize"}) {
    refuse_option(app, option, "EAGLE speculative decoding is not supported by this version");
  }
  app.callback([flags, &action] {
    action = [flags](Terminal& terminal) { return build(*flags, terminal); };
  });
}

}  // namespace kv8::apps
