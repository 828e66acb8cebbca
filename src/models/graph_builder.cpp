#include "models/graph_builder.h"

namespace kv8::models {

void GraphBuilder::input(std::string name, DType dtype, std::vector<graph::Dim> shape) {
  graph_.inputs.push_back({std::move(name), dtype, std::move(shape)});
}

void GraphBuilder::output(std::string name, DType dtype, std::vector<graph::Dim> shape) {
  graph_.outputs.push_back({std::move(name), dtype, std::move(shape)});
}

void GraphBuilder::metadata(const std::string& key, std::string value) {
  graph_.metadata[key] = std::move(value);
}

Value GraphBuilder::constant(const std::string& name, std::span<const float> values, Shape shape) {
  return add_initializer(name, tensor_from_floats(values, std::move(shape)));
}

Value GraphBuilder::constant(const std::string& name, std::initializer_list<std::int64_t> values) {
  const std::span<const std::int64_t> span(values.begin(), values.size());
  return add_initializer(name, tensor_from_bytes(DType::kI64, std::as_bytes(span),
                                                 {static_cast<std::int64_t>(span.size())}));
}

Value GraphBuilder::weight(const std::string& name,
                           const std::function<Result<TensorView>()>& load) {
  if (initializers_.contains(name)) return name;
  Result<TensorView> tensor = load();
  if (tensor.ok()) return add_initializer(name, std::move(tensor).value());
  if (!error_) error_ = tensor.error();
  return add_initializer(name, {});
}

Value GraphBuilder::add_initializer(const std::string& name, TensorView tensor) {
  KV8_CHECK(!initializers_.contains(name), "{} is there already", name);
  initializers_[name] = graph_.initializers.size();
  graph_.initializers.push_back({name, std::move(tensor)});
  return name;
}

Value GraphBuilder::node(const char* op_type, const std::string& output, std::vector<Value> inputs,
                         graph::Attributes attributes) {
  graph_.nodes.push_back({op_type, output, std::move(inputs), {output}, std::move(attributes)});
  return output;
}

Value GraphBuilder::cast(const std::string& output, const Value& x, DType to) {
  return node("Cast", output, {x}, {{"to", graph::onnx_dtype(to)}});
}

Value GraphBuilder::transpose(const std::string& output, const Value& x,
                              std::vector<std::int64_t> perm) {
  return node("Transpose", output, {x}, {{"perm", std::move(perm)}});
}

const TensorView& GraphBuilder::tensor_of(const Value& initializer) const {
  const auto found = initializers_.find(initializer);
  KV8_CHECK(found != initializers_.end(), "{} is not an initializer", initializer);
  return graph_.initializers[found->second].tensor;
}

DType GraphBuilder::dtype_of(const Value& initializer) const {
  return tensor_of(initializer).dtype;
}

std::size_t GraphBuilder::rank_of(const Value& initializer) const {
  return tensor_of(initializer).shape.size();
}

Result<graph::Graph> GraphBuilder::finish() {
  if (error_) return *error_;
  const Status valid = graph::validate(graph_);
  KV8_CHECK(valid.ok(), "{}", valid.error().message);
  return std::move(graph_);
}

}  // namespace kv8::models
