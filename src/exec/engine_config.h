// config.json of an engine folder: the exported model's fields and `builder_config`.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "exec/engine.h"
#include "exec/planner.h"
#include "io/model_config.h"

namespace kv8::exec {

/// Checks bounds of `config` alone, and its backend against this build.
Status check_builder_config(const BuilderConfig& config);

/// What `config` asks of the planner.
PlannerOptions planner_options(const BuilderConfig& config);

/// Checks a plan against the configuration of its model and against `config`: geometry, cache
/// types, positions. A capacity beyond max_position_embeddings is warned about; one beyond the
/// positions that the plan is valid for is refused.
Status check_plan_fits(const Plan& plan, const EngineConfig& config, const Reporter& reporter);

/// `json_text`, an exported model's config.json, as an engine's configuration. Fails without a
/// known `kv_cache_dtype`. `source` is named in errors.
Result<EngineConfig> engine_config_from_export(std::string_view json_text,
                                               const BuilderConfig& builder,
                                               std::string_view source);
/// The same fields from a checkpoint's configuration.
EngineConfig engine_config_from_model(const io::ModelConfig& model, bool kv_fp8,
                                      const BuilderConfig& builder);

/// Adds `builder_config` to the config.json in `dir`.
Status write_builder_config(const std::filesystem::path& dir, const BuilderConfig& config,
                            const Plan& plan);
/// Reads the config.json of an engine folder.
Result<EngineConfig> read_engine_config(const std::filesystem::path& dir);

}  // namespace kv8::exec
