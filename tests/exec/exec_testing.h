// What the tests of this room share: tiny checkpoints, their FP8 variants, error expectations.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/temp_dir.h"
#include "graph/graph.h"
#include "io/checkpoint.h"
#include "models/decoder.h"
#include "support/expect_error.h"

namespace kv8::exec {

inline const std::vector<std::string> kTinyModels = {"llama3",  "llama2_linear", "llama_yarn",
                                                     "mistral", "qwen2",         "qwen3"};

inline std::filesystem::path test_data() { return KV8_TEST_DATA; }
inline std::filesystem::path tiny_model(const std::string& name) {
  return test_data() / "models" / name;
}

/// Which scales of the golden file an FP8 checkpoint gets: one for K, V and Q each, or K and V per
/// head.
enum class Scales { kPerTensor, kPerHead };

/// Writes a copy of a tiny checkpoint, tokenizer and all, with FP8 KV scales in ModelOpt's layout.
void write_fp8_checkpoint(const std::string& name, Scales scales, const std::filesystem::path& dir);

/// The decoder's graph of a checkpoint, FP8 where its metadata says so.
inline graph::Graph decoder_graph(const std::filesystem::path& dir) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(dir).value();
  return models::build_decoder_graph(checkpoint,
                                     models::options_from_checkpoint(checkpoint).value())
      .value();
}

using test::expect_error;

}  // namespace kv8::exec
