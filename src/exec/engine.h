// Engine folders: building, the file format, loading. docs/formats.md has the bytes.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "graph/backend.h"
#include "graph/plan.h"
#include "io/checkpoint.h"

namespace kv8::exec {

inline constexpr std::uint32_t kEngineFormatVersion = 2;

/// Values of BuilderConfig::qk_exponent_shift beside numbers: what lets attention sum scores in
/// FP16 (`half_score_shift`), and that on a GPU but 0 on the CPU, where it would gain nothing.
inline constexpr std::int32_t kShiftForHalfScores = -1, kShiftOfBackend = -2;

/// `builder_config` of the engine's config.json.
struct BuilderConfig {
  std::int32_t max_input_len = 1024;
  std::int32_t max_kv_cache_capacity = 4096;  ///< tokens of one sequence
  std::int32_t max_batch_size = 4;
  std::int64_t kv_cache_memory = 0;  ///< bytes of the KV pool; 0: max_batch_size * capacity
  std::string backend = "cpu";
  DType q_dtype = DType::kF8E4M3;
  std::int32_t qk_exponent_shift = kShiftOfBackend;  ///< of the plan, or how to choose it
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
  static Result<std::unique_ptr<Engine>> from_checkpoint(const io::Checkpoint& checkpoint,
                                                         bool kv_fp8, const BuilderConfig& config);

  const EngineConfig& config() const { return config_; }
  const Plan& plan() const { return plan_; }
  const std::filesystem::path& dir() const { return dir_; }
  /// FP16 [vocab_size, hidden_size].
  const TensorView& embedding() const { return embedding_; }
  /// Lets the backend time its kernels for steps of up to `max_rows` rows, as llm_build does.
  Status tune(std::int64_t max_rows, const Reporter& reporter);
  /// Takes over what `other`, of the same model and backend, has chosen.
  void take_tuning(const Engine& other);
  /// Opens the backend that the engine was built for. max_sequence_tokens, where it is 0, becomes
  /// the engine's max_kv_cache_capacity.
  Result<std::unique_ptr<Backend>> open_backend(BackendOptions options) const;
  /// Bytes that a backend opened with `options` could give to KV pages.
  Result<std::int64_t> page_memory(BackendOptions options) const;

 private:
  EngineConfig config_;
  Plan plan_;
  std::filesystem::path dir_;
  BackendOptions completed(BackendOptions options) const;

  TensorView embedding_;
};

}  // namespace kv8::exec
