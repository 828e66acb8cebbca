// The intermediate representation: an ONNX-level graph in memory. models/ builds it, graph/onnx.h
// writes and reads it, exec/planner turns it into a Plan. Op types, attributes and semantics are
// those of the ONNX standard, opset 24.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "tensor/tensor.h"

namespace kv8::graph {

using Attribute =
    std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>, std::vector<float>>;

using Attributes = std::map<std::string, Attribute>;

struct Node {
  std::string op_type;
  std::string name;
  std::vector<std::string> inputs;  ///< value names; "" for an absent optional input
  std::vector<std::string> outputs;
  Attributes attributes;
};

/// A dimension is a number, or a symbol such as "batch".
using Dim = std::variant<std::int64_t, std::string>;

struct ValueInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<Dim> shape;
};

struct Initializer {
  std::string name;
  TensorView tensor;  ///< keeps its memory alive through `owner`
};

/// Nodes in topological order; every value has one producer (input, initializer or node).
struct Graph {
  std::string name;
  std::vector<ValueInfo> inputs;
  std::vector<ValueInfo> outputs;
  std::vector<Initializer> initializers;
  std::vector<Node> nodes;
  std::map<std::string, std::string> metadata;  ///< ONNX metadata_props

  const Initializer* find_initializer(std::string_view value_name) const;
};

/// Checks what the comment of Graph promises, that initializers have as many bytes as their shapes
/// say, and that every node is of a known operator (see graph.cpp) with as many inputs as it takes:
/// required ones are there, so that `inputs[i]` of a validated node needs no check for them.
Status validate(const Graph& graph);

/// TensorProto.DataType's number of a dtype: what Cast's `to` and QuantizeLinear's `output_dtype`
/// hold.
std::int64_t onnx_dtype(DType dtype);
/// Fails for element types that kv8 does not know.
Result<DType> dtype_from_onnx(std::int64_t number);

/// One line a value and a node, in order: what a person reads to see what a graph does.
std::string to_text(const Graph& graph);

}  // namespace kv8::graph
