// ONNX files: model.onnx with its weights beside it in model.onnx.data.
#pragma once

#include <filesystem>

#include "base/progress.h"
#include "graph/graph.h"

namespace kv8::graph {

inline constexpr int kOnnxOpset = 24;

/// Writes `dir`/model.onnx and `dir`/model.onnx.data (initializers above 1 KiB, 64-byte aligned).
/// Deterministic: the same graph gives the same bytes.
Status write_onnx(const Graph& graph, const std::filesystem::path& dir, const Reporter& reporter);

/// Reads a model that `write_onnx`, or another exporter with the same graph, wrote. External data
/// is memory-mapped and must lie inside the model's folder. An unknown opset, element type or
/// domain, and offsets outside the data file are errors.
Result<Graph> read_onnx(const std::filesystem::path& model_file);

}  // namespace kv8::graph
