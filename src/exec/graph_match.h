// Small questions that pattern matching asks of a graph. What does not match is an error naming the
// node, its operator and what was expected there.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "graph/graph.h"

namespace kv8::exec {

/// An attribute that a node may have. Attributes without a rule are refused: they would change what
/// the node computes.
struct AttributeRule {
  std::string_view name;
  std::optional<graph::Attribute> expected;  ///< nullopt: the caller reads the value
  bool required = false;                     ///< false: absent means `expected`
};

struct FloatConstant {
  std::vector<float> values;
  Shape shape;
};

/// Looks at `graph`, which must be valid (graph::validate) and outlive the matcher. In all calls
/// `what` says which part of the model is being looked at, for messages.
class GraphMatcher {
 public:
  explicit GraphMatcher(const graph::Graph& graph);

  const graph::Graph& graph() const { return graph_; }
  /// The node that computes `value` if it is an `op_type`, else nullptr; does not count as matched.
  const graph::Node* peek(const std::string& value, std::string_view op_type) const;
  bool is_output_of(const std::string& value, std::string_view op_type) const {
    return peek(value, op_type) != nullptr;
  }
  /// The node that computes `value`, which must be an `op_type` without other attributes than
  /// `rules` allow. Counts as matched from then on.
  Result<const graph::Node*> node(const std::string& value, std::string_view op_type,
                                  std::string_view what,
                                  std::initializer_list<AttributeRule> rules = {});
  Result<float> float_attribute(const graph::Node& node, std::string_view name) const;
  Result<std::int64_t> int_attribute(const graph::Node& node, std::string_view name,
                                     std::int64_t absent) const;
  /// Fails unless `value`, an operand of `node`, is `expected`.
  Status operand_is(const graph::Node& node, std::size_t index, std::string_view expected) const;

  struct Cast {
    std::string input;
    DType to;
  };
  Result<Cast> cast(const std::string& value, std::string_view what);
  /// The input of a Cast to exactly `to`.
  Result<std::string> cast_to(const std::string& value, DType to, std::string_view what);
  /// The input of a Transpose by `perm`.
  Result<std::string> transpose(const std::string& value, const std::vector<std::int64_t>& perm,
                                std::string_view what);
  /// The input of a Reshape to a constant shape that starts with 0, 0 (batch and sequence are
  /// kept) and has `tail` more entries, returned in `sizes`.
  Result<std::string> reshape(const std::string& value, std::size_t tail,
                              std::vector<std::int64_t>& sizes, std::string_view what);

  const graph::Initializer* initializer(const std::string& value) const;
  const graph::ValueInfo* input(const std::string& value) const;
  Result<std::vector<std::int64_t>> int_constant(const std::string& value,
                                                 std::string_view what) const;
  Result<FloatConstant> float_constant(const std::string& value, std::string_view what) const;
  /// The initializer behind `value`: an F32 one, or one in F16 or BF16 cast to F32.
  Result<const graph::Initializer*> weight(const std::string& value, std::string_view what);

  /// Fails if a node was never asked for.
  Status all_nodes_matched() const;
  /// "node `layers.0.attn.q` (MatMul)", "input `x`" or "constant `x`".
  std::string describe(const std::string& value) const;
  std::string describe(const graph::Node& node) const;

 private:
  const graph::Node* producer(const std::string& value) const;
  Status check_attributes(const graph::Node& node, std::string_view what,
                          std::initializer_list<AttributeRule> rules) const;

  const graph::Graph& graph_;
  std::unordered_map<std::string_view, const graph::Node*> producers_;
  std::unordered_map<std::string_view, const graph::Initializer*> initializers_;
  std::unordered_map<std::string_view, const graph::ValueInfo*> inputs_;
  std::set<const graph::Node*> matched_;
};

}  // namespace kv8::exec
