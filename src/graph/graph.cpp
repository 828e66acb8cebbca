#include "graph/graph.h"

#include <algorithm>
#include <array>
#include <set>

namespace kv8::graph {
namespace {

/// How many inputs an operator takes, as the standard defines it at opset 24.
struct OperatorArity {
  std::string_view op_type;
  std::size_t required_inputs, max_inputs;
};

/// The operators that a decoder graph consists of; all have one output that kv8 uses.
constexpr std::array kOperators = {
    OperatorArity{"Add", 2, 2},
    OperatorArity{"Attention", 3, 7},
    OperatorArity{"Cast", 1, 1},
    OperatorArity{"Cos", 1, 1},
    OperatorArity{"DequantizeLinear", 2, 3},
    OperatorArity{"Gather", 2, 2},
    OperatorArity{"MatMul", 2, 2},
    OperatorArity{"Mul", 2, 2},
    OperatorArity{"QuantizeLinear", 2, 3},
    OperatorArity{"RMSNormalization", 2, 2},
    OperatorArity{"Reshape", 2, 2},
    OperatorArity{"RotaryEmbedding", 3, 4},
    OperatorArity{"Sin", 1, 1},
    OperatorArity{"Swish", 1, 1},
    OperatorArity{"TensorScatter", 2, 3},
    OperatorArity{"Transpose", 1, 1},
    OperatorArity{"Unsqueeze", 2, 2},
};

struct OnnxType {
  DType dtype;
  std::int64_t number;
};
constexpr std::array kOnnxTypes = {
    OnnxType{DType::kF32, 1},     OnnxType{DType::kF16, 10}, OnnxType{DType::kBF16, 16},
    OnnxType{DType::kF8E4M3, 17}, OnnxType{DType::kU8, 2},   OnnxType{DType::kI32, 6},
    OnnxType{DType::kI64, 7},     OnnxType{DType::kBool, 9},
};

using Names = std::set<std::string_view>;

Status define(Names& values, std::string_view name, std::string_view what) {
  if (name.empty()) return bad_input("{} has no name", what);
  if (!values.insert(name).second) {
    return bad_input("{} `{}`: another value has this name already", what, name);
  }
  return {};
}

Status check_initializer(const Initializer& initializer) {
  const TensorView& tensor = initializer.tensor;
  const Result<std::int64_t> elements = checked_num_elements(tensor.shape);
  if (!elements.ok()) return elements.error().within("initializer `" + initializer.name + "`");
  const auto count = static_cast<std::uint64_t>(*elements);
  const std::uint64_t element_bytes = dtype_size(tensor.dtype);
  if (tensor.bytes.size() % element_bytes != 0 || tensor.bytes.size() / element_bytes != count) {
    return bad_input("initializer `{}`: {} {} needs {} elements of {} bytes, found {} bytes",
                     initializer.name, dtype_name(tensor.dtype), shape_text(tensor.shape), count,
                     element_bytes, tensor.bytes.size());
  }
  return {};
}

std::string describe(const Node& node) {
  const std::string& name =
      node.name.empty() && !node.outputs.empty() ? node.outputs[0] : node.name;
  return fmt::format("node `{}` ({})", name, node.op_type);
}

Status check_node(const Node& node, const Names& values) {
  const auto known = std::ranges::find(kOperators, node.op_type, &OperatorArity::op_type);
  if (known == kOperators.end()) {
    std::string list;
    for (const OperatorArity& op : kOperators) list += fmt::format(" {}", op.op_type);
    return unsupported("{}: kv8 does not know this operator; it knows{}", describe(node), list);
  }
  if (node.inputs.size() < known->required_inputs || node.inputs.size() > known->max_inputs) {
    return bad_input("{}: has {} inputs, the operator takes {} to {}", describe(node),
                     node.inputs.size(), known->required_inputs, known->max_inputs);
  }
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const std::string& input = node.inputs[i];
    if (input.empty() && i < known->required_inputs) {
      return bad_input("{}: input {} is left out, the operator needs it", describe(node), i);
    }
    if (!input.empty() && !values.contains(input)) {
      return bad_input(
          "{}: input `{}` is not an input, an initializer or an output of a node before",
          describe(node), input);
    }
  }
  if (node.outputs.size() != 1) {
    return bad_input("{}: has {} outputs, kv8 expects one", describe(node), node.outputs.size());
  }
  return {};
}

std::string dim_text(const Dim& dim) {
  if (const auto* symbol = std::get_if<std::string>(&dim)) return *symbol;
  return std::to_string(std::get<std::int64_t>(dim));
}

std::string value_text(const ValueInfo& value) {
  std::string shape;
  for (const Dim& dim : value.shape) shape += (shape.empty() ? "" : ", ") + dim_text(dim);
  return fmt::format("{} {} [{}]", value.name, dtype_name(value.dtype), shape);
}

struct AttributeText {
  std::string operator()(std::int64_t value) const { return std::to_string(value); }
  std::string operator()(float value) const { return fmt::format("{}", value); }
  std::string operator()(const std::string& value) const { return value; }
  template <typename T>
  std::string operator()(const std::vector<T>& values) const {
    return fmt::format("[{}]", fmt::join(values, ", "));
  }
};

std::string node_text(const Node& node) {
  std::string inputs, attributes;
  for (const std::string& input : node.inputs) {
    inputs += (inputs.empty() ? "" : ", ") + (input.empty() ? "-" : input);
  }
  for (const auto& [name, value] : node.attributes) {
    attributes += fmt::format("{}{}={}", attributes.empty() ? "" : ", ", name,
                              std::visit(AttributeText{}, value));
  }
  return fmt::format("{} = {}({}){}", fmt::join(node.outputs, ", "), node.op_type, inputs,
                     attributes.empty() ? "" : " {" + attributes + "}");
}

}  // namespace

const Initializer* Graph::find_initializer(std::string_view value_name) const {
  const auto found = std::ranges::find(initializers, value_name, &Initializer::name);
  return found == initializers.end() ? nullptr : &*found;
}

Status validate(const Graph& graph) {
  Names values;
  for (const ValueInfo& input : graph.inputs) KV8_TRY(define(values, input.name, "input"));
  for (const Initializer& initializer : graph.initializers) {
    KV8_TRY(define(values, initializer.name, "initializer"));
    KV8_TRY(check_initializer(initializer));
  }
  for (const Node& node : graph.nodes) {
    KV8_TRY(check_node(node, values));
    KV8_TRY(define(values, node.outputs[0], "output of " + describe(node)));
  }
  Names outputs;
  for (const ValueInfo& output : graph.outputs) {
    KV8_TRY(define(outputs, output.name, "output"));
    if (!values.contains(output.name)) {
      return bad_input("output `{}`: no node has it as its output", output.name);
    }
  }
  return {};
}

std::int64_t onnx_dtype(DType dtype) {
  return std::ranges::find(kOnnxTypes, dtype, &OnnxType::dtype)->number;
}

Result<DType> dtype_from_onnx(std::int64_t number) {
  const auto found = std::ranges::find(kOnnxTypes, number, &OnnxType::number);
  if (found == kOnnxTypes.end()) {
    return unsupported("ONNX element type {}: kv8 does not know it", number);
  }
  return found->dtype;
}

std::string to_text(const Graph& graph) {
  std::string text = fmt::format("graph {}\n", graph.name);
  for (const auto& [key, value] : graph.metadata)
    text += fmt::format("metadata {} = {}\n", key, value);
  for (const ValueInfo& input : graph.inputs) text += "input " + value_text(input) + "\n";
  for (const Initializer& initializer : graph.initializers) {
    text += fmt::format("initializer {} {} {}\n", initializer.name,
                        dtype_name(initializer.tensor.dtype), shape_text(initializer.tensor.shape));
  }
  for (const Node& node : graph.nodes) text += node_text(node) + "\n";
  for (const ValueInfo& output : graph.outputs) text += "output " + value_text(output) + "\n";
  return text;
}

}  // namespace kv8::graph
