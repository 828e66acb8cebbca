#include "exec/graph_match.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kv8::exec {
namespace {

using graph::Attribute;
using graph::Initializer;
using graph::Node;

/// Elements of a constant whose memory may lie at any address.
template <typename T>
std::vector<T> copy_elements(const TensorView& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(T));
  return values;
}

struct AttributeText {
  std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
  std::string operator()(float value) const { return fmt::format("{}", value); }
  std::string operator()(const std::string& value) const { return fmt::format("\"{}\"", value); }
  template <typename T>
  std::string operator()(const std::vector<T>& values) const {
    return fmt::format("{} numbers", values.size());
  }
};

std::string attribute_text(const Attribute& value) { return std::visit(AttributeText{}, value); }

}  // namespace

GraphMatcher::GraphMatcher(const graph::Graph& graph) : graph_(graph) {
  for (const Node& node : graph.nodes) producers_[node.outputs[0]] = &node;
  for (const Initializer& initializer : graph.initializers) {
    initializers_[initializer.name] = &initializer;
  }
  for (const graph::ValueInfo& input : graph.inputs) inputs_[input.name] = &input;
}

std::string GraphMatcher::describe(const Node& node) const {
  return fmt::format("node `{}` ({})", node.name.empty() ? node.outputs[0] : node.name,
                     node.op_type);
}

std::string GraphMatcher::describe(const std::string& value) const {
  if (const Node* node = producer(value)) return describe(*node);
  if (initializer(value) != nullptr) return fmt::format("constant `{}`", value);
  if (value.empty()) return "an operand that is left out";
  return fmt::format("input `{}`", value);
}

const Node* GraphMatcher::producer(const std::string& value) const {
  const auto found = producers_.find(value);
  return found == producers_.end() ? nullptr : found->second;
}

const Initializer* GraphMatcher::initializer(const std::string& value) const {
  const auto found = initializers_.find(value);
  return found == initializers_.end() ? nullptr : found->second;
}

const graph::ValueInfo* GraphMatcher::input(const std::string& value) const {
  const auto found = inputs_.find(value);
  return found == inputs_.end() ? nullptr : found->second;
}

const Node* GraphMatcher::peek(const std::string& value, std::string_view op_type) const {
  const Node* node = producer(value);
  return node != nullptr && node->op_type == op_type ? node : nullptr;
}

Result<const Node*> GraphMatcher::node(const std::string& value, std::string_view op_type,
                                       std::string_view what,
                                       std::initializer_list<AttributeRule> rules) {
  const Node* node = producer(value);
  if (node == nullptr || node->op_type != op_type) {
    return bad_input("{}: expected {} here, {}", describe(value), op_type, what);
  }
  KV8_TRY(check_attributes(*node, what, rules));
  matched_.insert(node);
  return node;
}

Status GraphMatcher::check_attributes(const Node& node, std::string_view what,
                                      std::initializer_list<AttributeRule> rules) const {
  for (const auto& [name, value] : node.attributes) {
    const auto* rule = std::ranges::find_if(
        rules, [&name = name](const AttributeRule& r) { return r.name == name; });
    if (rule == rules.end()) {
      return unsupported("{}: attribute {} = {} is not expected of {}", describe(node), name,
                         attribute_text(value), what);
    }
    if (rule->expected && value != *rule->expected) {
      return unsupported("{}: attribute {} is {}, expected {} of {}", describe(node), name,
                         attribute_text(value), attribute_text(*rule->expected), what);
    }
  }
  for (const AttributeRule& rule : rules) {
    if (rule.required && !node.attributes.contains(std::string(rule.name))) {
      return bad_input("{}: attribute {} is missing", describe(node), rule.name);
    }
  }
  return {};
}

Result<float> GraphMatcher::float_attribute(const Node& node, std::string_view name) const {
  const auto found = node.attributes.find(std::string(name));
  const float* value =
      found == node.attributes.end() ? nullptr : std::get_if<float>(&found->second);
  if (value == nullptr || !std::isfinite(*value)) {
    return bad_input("{}: expected a finite number as attribute {}", describe(node), name);
  }
  return *value;
}

Result<std::int64_t> GraphMatcher::int_attribute(const Node& node, std::string_view name,
                                                 std::int64_t absent) const {
  const auto found = node.attributes.find(std::string(name));
  if (found == node.attributes.end()) return absent;
  const auto* value = std::get_if<std::int64_t>(&found->second);
  if (value == nullptr) {
    return bad_input("{}: expected a whole number as attribute {}", describe(node), name);
  }
  return *value;
}

Status GraphMatcher::operand_is(const Node& node, std::size_t index,
                                std::string_view expected) const {
  const std::string& found = index < node.inputs.size() ? node.inputs[index] : std::string();
  if (found != expected) {
    return bad_input("{}: operand {} is {}, expected {}", describe(node), index,
                     found.empty() ? "left out" : fmt::format("`{}`", found),
                     expected.empty() ? "none" : fmt::format("`{}`", expected));
  }
  return {};
}

Result<GraphMatcher::Cast> GraphMatcher::cast(const std::string& value, std::string_view what) {
  const Node* cast = KV8_TRY(node(
      value, "Cast", what, {{"to", std::nullopt, true}, {"saturate", Attribute{std::int64_t{1}}}}));
  const Result<DType> to = graph::dtype_from_onnx(KV8_TRY(int_attribute(*cast, "to", -1)));
  if (!to.ok()) return to.error().within(describe(*cast));
  return Cast{cast->inputs[0], *to};
}

Result<std::string> GraphMatcher::cast_to(const std::string& value, DType to,
                                          std::string_view what) {
  Cast found = KV8_TRY(cast(value, what));
  if (found.to != to) {
    return bad_input("{}: casts to {}, expected {} for {}", describe(value), dtype_name(found.to),
                     dtype_name(to), what);
  }
  return std::move(found.input);
}

Result<std::string> GraphMatcher::transpose(const std::string& value,
                                            const std::vector<std::int64_t>& perm,
                                            std::string_view what) {
  const Node* found = KV8_TRY(node(value, "Transpose", what, {{"perm", Attribute{perm}, true}}));
  return found->inputs[0];
}

Result<std::string> GraphMatcher::reshape(const std::string& value, std::size_t tail,
                                          std::vector<std::int64_t>& sizes, std::string_view what) {
  const Node* found =
      KV8_TRY(node(value, "Reshape", what, {{"allowzero", Attribute{std::int64_t{0}}}}));
  const std::vector<std::int64_t> shape = KV8_TRY(int_constant(found->inputs[1], what));
  if (shape.size() != 2 + tail || shape[0] != 0 || shape[1] != 0) {
    return bad_input("{}: expected a shape of 0, 0 and {} sizes for {}", describe(*found), tail,
                     what);
  }
  sizes.assign(shape.begin() + 2, shape.end());
  for (const std::int64_t size : sizes) {
    if (size < 1 || size > (1 << 26)) {
      return bad_input("{}: size {} in the shape of {}", describe(*found), size, what);
    }
  }
  return found->inputs[0];
}

Result<std::vector<std::int64_t>> GraphMatcher::int_constant(const std::string& value,
                                                             std::string_view what) const {
  const Initializer* constant = initializer(value);
  if (constant == nullptr || constant->tensor.dtype != DType::kI64 ||
      constant->tensor.shape.size() != 1) {
    return bad_input("{}: expected a constant list of INT64 for {}", describe(value), what);
  }
  return copy_elements<std::int64_t>(constant->tensor);
}

Result<FloatConstant> GraphMatcher::float_constant(const std::string& value,
                                                   std::string_view what) const {
  const Initializer* constant = initializer(value);
  if (constant == nullptr || constant->tensor.dtype != DType::kF32) {
    return bad_input("{}: expected an F32 constant, {}", describe(value), what);
  }
  return FloatConstant{copy_elements<float>(constant->tensor), constant->tensor.shape};
}

Result<const Initializer*> GraphMatcher::weight(const std::string& value, std::string_view what) {
  const std::string name =
      initializer(value) != nullptr ? value : KV8_TRY(cast_to(value, DType::kF32, what));
  const Initializer* found = initializer(name);
  if (found == nullptr) {
    return bad_input("{}: expected a constant, {}", describe(name), what);
  }
  const DType dtype = found->tensor.dtype;
  const bool direct = name == value;
  if (dtype != DType::kF32 && (direct || (dtype != DType::kF16 && dtype != DType::kBF16))) {
    return unsupported("constant `{}` is {}, expected F32, F16 or BF16 for {}", name,
                       dtype_name(dtype), what);
  }
  return found;
}

Status GraphMatcher::all_nodes_matched() const {
  for (const Node& node : graph_.nodes) {
    if (!matched_.contains(&node)) {
      return unsupported("{}: expected nothing here, it is no part of a decoder that kv8 knows",
                         describe(node));
    }
  }
  return {};
}

}  // namespace kv8::exec
