// kv8 debug logits: what the engine computes, for comparison with other implementations.
#include <algorithm>

#include "apps/command.h"
#include "apps/commands/token_ids.h"
#include "exec/backends.h"
#include "exec/sequence.h"
#include "io/safetensors.h"

namespace kv8::apps {
namespace {

struct LogitsFlags {
  std::string checkpoint, ids_file, out_file, kv = "fp16", q_dtype = "fp8";
  std::string device = "cpu";
  std::int32_t prefill = 0, qk_exponent_shift = exec::kShiftOfBackend;
  int threads = 0;
};

/// Logits of every position: the first `prefill` ids at once, the rest one at a time.
Status dump_logits(const LogitsFlags& flags, const Reporter& reporter) {
  exec::BuilderConfig config;
  config.backend = exec::choose_backend(flags.device, reporter);
  config.q_dtype = flags.q_dtype == "fp8" ? DType::kF8E4M3 : DType::kF16;
  config.qk_exponent_shift = flags.qk_exponent_shift;
  const auto engine =
      KV8_TRY(exec::Engine::from_checkpoint(flags.checkpoint, flags.kv == "fp8", config));
  const auto ids = KV8_TRY(read_token_ids(flags.ids_file, engine->config().vocab_size));
  const auto count = static_cast<std::int64_t>(ids.size());
  const auto backend =
      KV8_TRY(engine->open_backend({.num_threads = flags.threads,
                                    .num_pages = static_cast<std::int32_t>(pages_for_tokens(count)),
                                    .max_rows = count,
                                    .max_sequences = 1}));
  exec::KvPool pool(backend->num_pages());
  exec::Sequence sequence(pool);
  const std::int64_t first =
      flags.prefill > 0 ? std::min<std::int64_t>(flags.prefill, count) : count;
  std::vector<float> all, rows;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t now = done == 0 ? first : 1;
    exec::StepItem item{
        &sequence,
        std::span(ids).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(now)),
        exec::StepItem::Logits::kAll};
    KV8_TRY(exec::run_step(*engine, *backend, std::span(&item, 1), rows));
    all.insert(all.end(), rows.begin(), rows.end());
    done += now;
  }
  return io::write_safetensors(
      flags.out_file, {{"logits", tensor_from_floats(all, {count, engine->config().vocab_size})}});
}

}  // namespace

void add_debug(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand("debug", "Look inside");
  app->require_subcommand(1);
  define_debug_compare(*app->add_subcommand("compare",
                                            "Compare the intermediate values of two runs of a "
                                            "model: CPU and GPU, FP16 and FP8 KV, …"),
                       action);
  CLI::App* logits = app->add_subcommand("logits", "Write a model's logits for given token ids");
  const auto flags = std::make_shared<LogitsFlags>();
  logits->add_option("--checkpoint", flags->checkpoint, "Checkpoint folder")->required();
  logits->add_option("--ids-file", flags->ids_file, "JSON array of token ids")->required();
  logits->add_option("--out", flags->out_file, "safetensors file: logits F32 [ids, vocab]")
      ->required();
  logits->add_option("--kv", flags->kv, "KV cache format")
      ->check(one_of({"fp16", "fp8"}))
      ->capture_default_str();
  logits->add_option("--qDtype", flags->q_dtype, "What Q is rounded to with an FP8 cache")
      ->check(one_of({"fp8", "fp16"}))
      ->capture_default_str();
  logits->add_option("--qkExponentShift", flags->qk_exponent_shift, "As of llm_build")
      ->check(CLI::Range(0, kMaxQkExponentShift));
  logits
      ->add_option("--prefill", flags->prefill,
                   "Ids to process at once, the rest one by one (0: all)")
      ->check(CLI::Range(0, 1 << 30));
  logits->add_option("--device", flags->device, "Where to run")
      ->check(one_of({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  logits->add_option("--threads", flags->threads, "CPU threads (0: all)")
      ->check(CLI::Range(0, 1024));
  logits->callback([flags, &action] {
    action = [flags](Terminal& terminal) { return dump_logits(*flags, terminal.reporter()); };
  });
}

}  // namespace kv8::apps
