// `kv8 export`: a checkpoint becomes an exported model folder.
#pragma once

#include <filesystem>

#include "base/progress.h"
#include "io/checkpoint.h"

namespace kv8::models {

struct ExportOptions {
  bool portable = false;
  bool last_token_only = false;
};

/// The embedding as FP16 [vocab, hidden], which every engine reads; values that FP16 cannot hold are
/// an error.
Result<TensorView> embedding_table(const io::Checkpoint& checkpoint);

/// Writes config.json, embedding.safetensors, tokenizer files and processed_chat_template.json of
/// the exported model into `dir` (an existing folder): everything but the graph itself. llm_build
/// --checkpointDir uses it too.
Status write_model_side_files(const io::Checkpoint& checkpoint, bool kv_fp8,
                              const std::filesystem::path& dir);

/// Writes `dir`/llm/ whole or not at all.
Status export_model(const std::filesystem::path& checkpoint_dir, const std::filesystem::path& dir,
                    const ExportOptions& options, const Reporter& reporter);

}  // namespace kv8::models
