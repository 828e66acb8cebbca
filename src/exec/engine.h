// Engine folders: building, the file format, loading. docs/formats.md has the bytes.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "graph/backend.h"
#include "graph/plan.h"

namespace kv8::exec {

inline constexpr std::uint32_t kEngineFormatVersion = 1;

/// `builder_config` of the engine's config.json.
struct BuilderConfig {
  std::int32_t max_input_len = 1024;
  std::int32_t max_kv_cache_capacity = 4096;  ///< tokens of one sequence
  std::int32_t max_batch_size = 4;
  std::int64_t kv_cache_memory = 0;  ///< bytes of the KV pool; 0: max_batch_size * capacity
  std::string backend = "cpu";
  DType q_dtype = DType::kF8E4M3;
};

/// Fields of the engine's config.json that running needs.
struct EngineConfig {
  BuilderConfig builder;
  std::string model_type;
  std::string kv_cache_dtype;  ///< "fp8" or "fp16"
  std::int32_t hidden_size = 0, vocab_size = 0;
  std::int32_t max_position_embeddings = 0;
  std::int32_t bos_token_id = -1;
  std::vector<std::int32_t> eos_token_ids;
};

/// llm_build: from an exported model (`--onnxDir`) or straight from a checkpoint
/// (`--checkpointDir`); both give the same llm.engine for the same model. Written whole or not at
/// all.
Status build_engine_from_onnx(const std::filesystem::path& onnx_dir,
                              const std::filesystem::path& engine_dir, const BuilderConfig& config,
                              const Reporter& reporter);
Status build_engine_from_checkpoint(const std::filesystem::path& checkpoint_dir,
                                    const std::filesystem::path& engine_dir,
                                    const BuilderConfig& config, const Reporter& reporter);

/// Pages of the KV pool that `config` asks for: kv_cache_memory over the bytes that a page takes
/// in all layers, or enough for max_batch_size sequences of max_kv_cache_capacity tokens. kCapacity
/// when that memory does not hold a sequence of max_input_len tokens.
Result<std::int32_t> kv_pool_pages(const BuilderConfig& config, const Plan& plan);

/// Writes and reads llm.engine itself: header (magic, format version, backend, architecture, sizes,
/// SHA-256 of both sections), the plan as JSON, 64-byte aligned weights. `read` maps the file;
/// weights are used in place. `verify_hash` reads the whole file (the default checks the plan's own
/// hash only, so that loading stays instant).
Status write_engine_file(const Plan& plan, const BuilderConfig& config,
                         const std::filesystem::path& file, const Reporter& reporter);
Result<Plan> read_engine_file(const std::filesystem::path& file, std::string_view backend,
                              bool verify_hash = false);

/// A loaded engine folder: config, plan, embedding rows.
class Engine {
 public:
  static Result<std::unique_ptr<Engine>> load(const std::filesystem::path& dir);
  /// An engine in memory from a checkpoint, without any file: calibration and evaluation.
  /// `kv_fp8` false gives FP16 caches whatever the checkpoint's metadata says.
  static Result<std::unique_ptr<Engine>> from_checkpoint(const std::filesystem::path& dir,
                                                         bool kv_fp8, const BuilderConfig& config);

  const EngineConfig& config() const { return config_; }
  const Plan& plan() const { return plan_; }
  const std::filesystem::path& dir() const { return dir_; }
  /// Copies the FP16 embedding rows of `ids` to `out` [ids, hidden]. Ids are in range (checked by
  /// the caller, who knows whose fault it is).
  void embed(std::span<const std::int32_t> ids, std::uint16_t* out) const;
  /// Opens the backend that the engine was built for with `num_pages` KV pages.
  Result<std::unique_ptr<Backend>> open_backend(std::int32_t num_pages, std::int64_t max_rows,
                                                int num_threads) const;

 private:
  EngineConfig config_;
  Plan plan_;
  std::filesystem::path dir_;
  TensorView embedding_;  // FP16 [vocab, hidden]
};

}  // namespace kv8::exec
