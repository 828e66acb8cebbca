#include "exec/engine_config.h"

#include <algorithm>
#include <limits>

#include "base/file.h"
#include "base/json.h"
#include "exec/backends.h"

namespace kv8::exec {
namespace {

constexpr std::int64_t kMaxTokens = std::int64_t{1} << 30;
constexpr std::int64_t kMaxBatch = 65536;
constexpr std::int64_t kMaxMemory = std::int64_t{1} << 50;
/// Pages whose tokens still count in 32 bits.
constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max() / kPageTokens;

Status check_bounds(std::int64_t value, std::int64_t min, std::int64_t max, std::string_view name) {
  if (value < min || value > max) {
    return usage_error("{} is {}, expected {} to {}", name, value, min, max);
  }
  return {};
}

bool quantizes_q(const Plan& plan) {
  return std::ranges::any_of(plan.caches,
                             [](const LayerCache& cache) { return !cache.q_scale.empty(); });
}

EngineConfig from_model(const io::ModelConfig& model, std::string kv_cache_dtype,
                        const BuilderConfig& builder) {
  EngineConfig config;
  config.builder = builder;
  config.model_type = model.model_type;
  config.kv_cache_dtype = std::move(kv_cache_dtype);
  config.hidden_size = model.hidden_size;
  config.vocab_size = model.vocab_size;
  config.max_position_embeddings = model.max_position_embeddings;
  config.bos_token_id = model.bos_token_id;
  config.eos_token_ids = model.eos_token_ids;
  return config;
}

/// Where this machine has no such backend the error begins with `context` and ends with `advice`.
Status check_backend(std::string_view backend, std::string_view context, std::string_view advice) {
  const Result<std::string> architecture = backend_architecture(backend);
  if (architecture.ok()) return {};
  // A setting of the environment that is not one: neither file nor flags are to blame.
  if (architecture.error().code == ErrorCode::kUsage) return architecture.error();
  return unsupported("{}{}; {}", context, architecture.error().message, advice);
}

Status check_limits(const BuilderConfig& config) {
  KV8_TRY(check_bounds(config.max_input_len, 1, kMaxTokens, "max_input_len"));
  KV8_TRY(check_bounds(config.max_kv_cache_capacity, 1, kMaxTokens, "max_kv_cache_capacity"));
  KV8_TRY(check_bounds(config.max_batch_size, 1, kMaxBatch, "max_batch_size"));
  KV8_TRY(check_bounds(config.kv_cache_memory, 0, kMaxMemory, "kv_cache_memory"));
  if (config.max_input_len > config.max_kv_cache_capacity) {
    return usage_error("max_input_len {} is more than max_kv_cache_capacity {}",
                       config.max_input_len, config.max_kv_cache_capacity);
  }
  return {};
}

Result<BuilderConfig> builder_from_json(const Json& json, const std::string& source) {
  BuilderConfig config;
  const auto integer = [&](std::string_view key, std::int64_t min, std::int64_t max) {
    return json_int(json, key, source, min, max);
  };
  config.max_input_len =
      static_cast<std::int32_t>(KV8_TRY(integer("max_input_len", 1, kMaxTokens)));
  config.max_kv_cache_capacity =
      static_cast<std::int32_t>(KV8_TRY(integer("max_kv_cache_capacity", 1, kMaxTokens)));
  config.max_batch_size =
      static_cast<std::int32_t>(KV8_TRY(integer("max_batch_size", 1, kMaxBatch)));
  config.kv_cache_memory = KV8_TRY(integer("kv_cache_memory", 0, kMaxMemory));
  config.backend = KV8_TRY(json_string(json, "backend", source));
  const std::string q_dtype = KV8_TRY(json_string(json, "q_dtype", source));
  if (q_dtype != "fp8" && q_dtype != "fp16") {
    return bad_input("{}: field `q_dtype` is \"{}\", expected \"fp8\" or \"fp16\"", source,
                     q_dtype);
  }
  config.q_dtype = q_dtype == "fp8" ? DType::kF8E4M3 : DType::kF16;
  KV8_TRY(check_backend(config.backend, source + ": ",
                        "rebuild the engine for this machine with llm_build"));
  const Status status = check_limits(config);
  if (!status.ok()) return status.error().within(source);
  return config;
}

}  // namespace

PlannerOptions planner_options(const BuilderConfig& config) {
  const bool half_scores =
      config.qk_exponent_shift == kShiftForHalfScores ||
      (config.qk_exponent_shift == kShiftOfBackend && config.backend == "cuda");
  return {config.q_dtype, std::max(config.qk_exponent_shift, 0), half_scores};
}

Status check_builder_config(const BuilderConfig& config) {
  KV8_TRY(check_backend(config.backend, "", "--backend cpu builds for the CPU"));
  return check_limits(config);
}

Status check_plan_fits(const Plan& plan, const EngineConfig& config, const Reporter& reporter) {
  if (plan.hidden_size != config.hidden_size || plan.vocab_size != config.vocab_size) {
    return bad_input(
        "the graph has hidden_size {} and vocab_size {}, config.json {} and {}: they are of "
        "different models",
        plan.hidden_size, plan.vocab_size, config.hidden_size, config.vocab_size);
  }
  const DType expected = config.kv_cache_dtype == "fp8" ? DType::kF8E4M3 : DType::kF16;
  for (std::size_t i = 0; i < plan.caches.size(); ++i) {
    if (plan.caches[i].dtype != expected) {
      return bad_input(
          "the graph's cache of layer {} is {}, config.json's `kv_cache_dtype` says {}", i,
          dtype_name(plan.caches[i].dtype), config.kv_cache_dtype);
    }
  }
  const std::int32_t capacity = config.builder.max_kv_cache_capacity;
  if (plan.max_positions != 0 && capacity > plan.max_positions) {
    return unsupported(
        "this model's dynamic RoPE scaling would change the angles of cached keys beyond {} "
        "tokens, "
        "max_kv_cache_capacity is {}; set --maxKVCacheCapacity to {} or less",
        plan.max_positions, capacity, plan.max_positions);
  }
  if (capacity > config.max_position_embeddings) {
    reporter.warn(
        fmt::format("max_kv_cache_capacity {} is more than the model's {} positions; answers may "
                    "lose sense beyond them",
                    capacity, config.max_position_embeddings));
  }
  return {};
}

Result<std::int32_t> kv_pool_pages(const BuilderConfig& config, const Plan& plan) {
  const std::int64_t page_bytes = plan.kv_bytes_per_token() * kPageTokens;
  std::int64_t pages = std::int64_t{config.max_batch_size} *
                       pages_for_tokens(std::int64_t{config.max_kv_cache_capacity});
  if (config.kv_cache_memory > 0) pages = config.kv_cache_memory / page_bytes;
  const std::int64_t needed = pages_for_tokens(std::int64_t{config.max_input_len});
  if (pages < needed) {
    return capacity_error(
        "kv_cache_memory of {} bytes holds {} KV pages of {} tokens, a prompt of max_input_len {} "
        "needs {}: give at least {} bytes",
        config.kv_cache_memory, pages, kPageTokens, config.max_input_len, needed,
        needed * page_bytes);
  }
  if (pages > kMaxPages) {
    return capacity_error("{} KV pages, more than the {} that kv8 counts", pages, kMaxPages);
  }
  return static_cast<std::int32_t>(pages);
}

Result<EngineConfig> engine_config_from_export(std::string_view json_text,
                                               const BuilderConfig& builder,
                                               std::string_view source) {
  const io::ModelConfig model = KV8_TRY(io::parse_model_config(json_text, source));
  const Json json = KV8_TRY(parse_json(json_text, source));
  std::string kv_cache_dtype = KV8_TRY(json_string(json, "kv_cache_dtype", source));
  if (kv_cache_dtype != "fp8" && kv_cache_dtype != "fp16") {
    return bad_input("{}: field `kv_cache_dtype` is \"{}\", expected \"fp8\" or \"fp16\"", source,
                     kv_cache_dtype);
  }
  return from_model(model, std::move(kv_cache_dtype), builder);
}

EngineConfig engine_config_from_model(const io::ModelConfig& model, bool kv_fp8,
                                      const BuilderConfig& builder) {
  return from_model(model, kv_fp8 ? "fp8" : "fp16", builder);
}

Status write_builder_config(const std::filesystem::path& dir, const BuilderConfig& config,
                            const Plan& plan) {
  Json json = KV8_TRY(read_json_file(dir / "config.json"));
  json["builder_config"] = {{"max_input_len", config.max_input_len},
                            {"max_kv_cache_capacity", config.max_kv_cache_capacity},
                            {"max_batch_size", config.max_batch_size},
                            {"kv_cache_memory", config.kv_cache_memory},
                            {"kv_page_tokens", kPageTokens},
                            {"backend", config.backend},
                            {"q_dtype", quantizes_q(plan) ? "fp8" : "fp16"}};
  return write_json_file(dir / "config.json", json);
}

Result<EngineConfig> read_engine_config(const std::filesystem::path& dir) {
  const std::string source = (dir / "config.json").string();
  const std::string text = KV8_TRY(read_text_file(source, std::uint64_t{1} << 28));
  const Json json = KV8_TRY(parse_json(text, source));
  if (!json.is_object() || !json.contains("builder_config")) {
    return bad_input(
        "{}: field `builder_config` is missing; this is no engine folder, make one "
        "with llm_build",
        source);
  }
  const BuilderConfig builder =
      KV8_TRY(builder_from_json(json["builder_config"], source + ": builder_config"));
  return engine_config_from_export(text, builder, source);
}

}  // namespace kv8::exec
