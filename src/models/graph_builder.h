// Appends nodes, inputs and constants to a graph::Graph; a value is known by its name.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace kv8::models {

using Value = std::string;

/// Every node has one output, and its name is that output's. The first failure to find a weight is
/// kept and returned by `finish`, so that the code in between reads as the model.
class GraphBuilder {
 public:
  explicit GraphBuilder(std::string name) { graph_.name = std::move(name); }

  void input(std::string name, DType dtype, std::vector<graph::Dim> shape);
  void output(std::string name, DType dtype, std::vector<graph::Dim> shape);
  void metadata(const std::string& key, std::string value);

  Value constant(const std::string& name, std::span<const float> values, Shape shape);
  Value constant(const std::string& name, std::initializer_list<std::int64_t> values);
  /// The tensor that `load` gives, as an initializer; a name used before gives the same one.
  Value weight(const std::string& name, const std::function<Result<TensorView>()>& load);

  Value node(const char* op_type, const std::string& output, std::vector<Value> inputs,
             graph::Attributes attributes = {});
  Value cast(const std::string& output, const Value& x, DType to);
  Value transpose(const std::string& output, const Value& x, std::vector<std::int64_t> perm);

  DType dtype_of(const Value& initializer) const;
  std::size_t rank_of(const Value& initializer) const;

  /// The graph, validated, or the first error.
  Result<graph::Graph> finish();

 private:
  Value add_initializer(const std::string& name, TensorView tensor);
  const TensorView& tensor_of(const Value& initializer) const;

  graph::Graph graph_;
  std::map<std::string, std::size_t> initializers_;
  std::optional<Error> error_;
};

}  // namespace kv8::models
