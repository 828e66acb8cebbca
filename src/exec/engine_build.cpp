// llm_build: an engine folder from an exported model or from a checkpoint.
#include <array>

#include "base/file.h"
#include "exec/backends.h"
#include "exec/engine.h"
#include "exec/engine_config.h"
#include "exec/planner.h"
#include "graph/onnx.h"
#include "models/decoder.h"
#include "models/exporter.h"

namespace kv8::exec {
namespace fs = std::filesystem;
namespace {

/// Files of an exported model that an engine folder carries beside config.json.
constexpr std::array kRequiredFiles = {"embedding.safetensors", "tokenizer.json"};
constexpr std::array kOptionalFiles = {"tokenizer_config.json", "processed_chat_template.json",
                                       "generation_config.json"};

/// Rows of the largest step that products are timed for; larger ones use what is best there.
constexpr std::int64_t kTunedRows = 4096;

Status link_or_copy(const fs::path& from, const fs::path& to) {
  std::error_code failure;
  fs::create_hard_link(fs::canonical(from, failure), to, failure);
  return failure ? kv8::copy_file(from, to) : Status();
}

Status take_side_files(const fs::path& onnx_dir, const fs::path& dir) {
  KV8_TRY(kv8::copy_file(onnx_dir / "config.json", dir / "config.json"));
  for (const char* name : kRequiredFiles) {
    if (!fs::exists(onnx_dir / name)) {
      return not_found("{}: is missing; export the model again", (onnx_dir / name).string());
    }
    KV8_TRY(link_or_copy(onnx_dir / name, dir / name));
  }
  for (const char* name : kOptionalFiles) {
    if (fs::exists(onnx_dir / name)) KV8_TRY(link_or_copy(onnx_dir / name, dir / name));
  }
  return {};
}

/// Plans `graph`, checks the plan, and adds engine and builder_config to the side files in `dir`.
Status finish_engine(const graph::Graph& graph, const fs::path& dir, const BuilderConfig& builder,
                     const std::string& source, const Reporter& reporter) {
  Result<Plan> plan = plan_graph(graph, planner_options(builder));
  if (!plan.ok()) return plan.error().within(source);
  const std::string config_text = KV8_TRY(read_text_file(dir / "config.json"));
  const EngineConfig config =
      KV8_TRY(engine_config_from_export(config_text, builder, source + ": config.json"));
  const Status fits = check_plan_fits(*plan, config, reporter);
  if (!fits.ok()) return fits.error().within(source);
  KV8_TRY(kv_pool_pages(builder, *plan));
  if (config.kv_cache_dtype == "fp8" && builder.q_dtype == DType::kF8E4M3 &&
      plan->caches[0].q_scale.empty()) {
    reporter.info("the model has no q_scale: queries stay in FP16");
  }
  KV8_TRY(tune_plan(builder.backend, *plan, kTunedRows, reporter));
  KV8_TRY(write_engine_file(*plan, builder, dir / "llm.engine", reporter));
  return write_builder_config(dir, builder, *plan);
}

}  // namespace

Status build_engine_from_onnx(const fs::path& onnx_dir, const fs::path& engine_dir,
                              const BuilderConfig& config, const Reporter& reporter) {
  KV8_TRY(check_builder_config(config));
  const graph::Graph graph = KV8_TRY(graph::read_onnx(onnx_dir / "model.onnx"));
  AtomicDir dir = KV8_TRY(AtomicDir::create(engine_dir));
  KV8_TRY(take_side_files(onnx_dir, dir.temporary()));
  KV8_TRY(finish_engine(graph, dir.temporary(), config, onnx_dir.string(), reporter));
  return dir.commit();
}

Status build_engine_from_checkpoint(const fs::path& checkpoint_dir, const fs::path& engine_dir,
                                    const BuilderConfig& config, const Reporter& reporter) {
  KV8_TRY(check_builder_config(config));
  const io::Checkpoint checkpoint = KV8_TRY(io::Checkpoint::open(checkpoint_dir));
  const models::DecoderOptions options = KV8_TRY(models::options_from_checkpoint(checkpoint));
  const graph::Graph graph = KV8_TRY(models::build_decoder_graph(checkpoint, options));
  AtomicDir dir = KV8_TRY(AtomicDir::create(engine_dir));
  KV8_TRY(models::write_model_side_files(checkpoint, options.quantize_kv, dir.temporary()));
  KV8_TRY(finish_engine(graph, dir.temporary(), config, checkpoint_dir.string(), reporter));
  return dir.commit();
}

}  // namespace kv8::exec
