#include "exec/engine.h"

#include <cstring>
#include <new>

#include "exec/backends.h"
#include "exec/engine_config.h"
#include "exec/planner.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "models/decoder.h"
#include "models/exporter.h"

namespace kv8::exec {
namespace {

/// Whether the parts are one piece of memory already.
bool are_adjacent(const std::vector<TensorView>& parts) {
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::span<const std::byte> before = parts[i - 1].bytes;
    const bool follows = before.data() + before.size() == parts[i].bytes.data();
    if (!follows || parts[i].owner != parts[0].owner) return false;
  }
  return true;
}

/// Gives a weight one part that is aligned to its elements, as in an engine file.
void join_parts(PlanWeight& weight) {
  const TensorView& first = weight.parts[0];
  const bool aligned =
      reinterpret_cast<std::uintptr_t>(first.bytes.data()) % dtype_size(weight.dtype) == 0;
  std::size_t total = 0;
  for (const TensorView& part : weight.parts) total += part.bytes.size();
  if (aligned && are_adjacent(weight.parts)) {
    weight.parts = {{weight.dtype, weight.shape, {first.bytes.data(), total}, first.owner}};
    return;
  }
  const auto memory = std::make_shared<Buffer>(total);
  std::byte* out = memory->data();
  for (const TensorView& part : weight.parts) {
    std::memcpy(out, part.bytes.data(), part.bytes.size());
    out += part.bytes.size();
  }
  weight.parts = {{weight.dtype, weight.shape, {memory->data(), total}, memory}};
}

Status join_all_parts(Plan& plan) {
  try {
    for (PlanWeight& weight : plan.weights) join_parts(weight);
  } catch (const std::bad_alloc&) {
    return capacity_error(
        "not enough memory for the model's weights; build an engine and run that");
  }
  return {};
}

Result<models::DecoderOptions> decoder_options(const io::Checkpoint& checkpoint, bool kv_fp8) {
  if (!kv_fp8) return models::DecoderOptions{};
  models::DecoderOptions options = KV8_TRY(models::options_from_checkpoint(checkpoint));
  if (!options.quantize_kv) {
    return usage_error("{}: has no FP8 KV scales; quantize it with --kv_cache_quantization fp8",
                       checkpoint.dir().string());
  }
  return options;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::load(const std::filesystem::path& dir) {
  auto engine = std::make_unique<Engine>();
  engine->dir_ = dir;
  engine->config_ = KV8_TRY(read_engine_config(dir));
  const EngineConfig& config = engine->config_;
  engine->plan_ = KV8_TRY(read_engine_file(dir / "llm.engine", config.builder.backend));
  const Status fits = check_plan_fits(engine->plan_, config, Reporter{});
  if (!fits.ok()) return fits.error().within(dir.string());

  const auto file = KV8_TRY(io::SafetensorsFile::open(dir / "embedding.safetensors"));
  engine->embedding_ = KV8_TRY(file.tensor("embedding"));
  const Status known = check_embedding(engine->plan_, engine->embedding_);
  if (!known.ok()) return known.error().within(file.path().string());
  return engine;
}

Result<std::unique_ptr<Engine>> Engine::from_checkpoint(const std::filesystem::path& dir,
                                                        bool kv_fp8, const BuilderConfig& config) {
  const io::Checkpoint checkpoint = KV8_TRY(io::Checkpoint::open(dir));
  return from_checkpoint(checkpoint, kv_fp8, config);
}

Result<std::unique_ptr<Engine>> Engine::from_checkpoint(const io::Checkpoint& checkpoint,
                                                        bool kv_fp8, const BuilderConfig& config) {
  const models::DecoderOptions options = KV8_TRY(decoder_options(checkpoint, kv_fp8));
  const graph::Graph graph = KV8_TRY(models::build_decoder_graph(checkpoint, options));

  auto engine = std::make_unique<Engine>();
  engine->dir_ = checkpoint.dir();
  engine->config_ = engine_config_from_model(checkpoint.config(), kv_fp8, config);
  engine->plan_ = KV8_TRY(plan_graph(graph, planner_options(config)));
  KV8_TRY(check_plan_fits(engine->plan_, engine->config_, Reporter{}));
  KV8_TRY(join_all_parts(engine->plan_));
  engine->embedding_ = KV8_TRY(models::embedding_table(checkpoint));
  return engine;
}

BackendOptions Engine::completed(BackendOptions options) const {
  if (options.max_sequence_tokens == 0) {
    options.max_sequence_tokens = config_.builder.max_kv_cache_capacity;
  }
  return options;
}

Status Engine::tune(std::int64_t max_rows, const Reporter& reporter) {
  return tune_plan(config_.builder.backend, plan_, max_rows, reporter);
}

void Engine::take_tuning(const Engine& other) {
  plan_.tuned_library = other.plan_.tuned_library;
  plan_.tuned = other.plan_.tuned;
}

Result<std::unique_ptr<Backend>> Engine::open_backend(BackendOptions options) const {
  return make_backend(config_.builder.backend, plan_, embedding_, completed(options));
}

Result<std::int64_t> Engine::page_memory(BackendOptions options) const {
  return exec::page_memory(config_.builder.backend, plan_, completed(options));
}

}  // namespace kv8::exec
