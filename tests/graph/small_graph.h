// A graph of a few nodes with every kind of attribute, initializer and dimension.
#pragma once

#include <numeric>

#include "graph/graph.h"

namespace kv8::graph {

inline TensorView iota_f16(Shape shape) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(checked_num_elements(shape).value()));
  std::iota(bits.begin(), bits.end(), std::uint16_t{0x2C00});
  return tensor_from_bytes(DType::kF16, std::as_bytes(std::span(bits)), std::move(shape));
}

inline TensorView i64_tensor(std::vector<std::int64_t> values) {
  return tensor_from_bytes(DType::kI64, std::as_bytes(std::span(values)),
                           {static_cast<std::int64_t>(values.size())});
}

inline TensorView f32_tensor(std::vector<float> values, Shape shape) {
  return tensor_from_floats(values, std::move(shape));
}

/// x -> x W^T, quantized into a cache and attended to. W is large enough to be external data.
inline Graph small_graph() {
  Graph g;
  g.name = "small";
  g.metadata = {{"model_type", "none"}, {"kv8.graph_version", "1"}};
  g.inputs = {{"x", DType::kF32, {"batch", std::int64_t{2}, "sequence", std::int64_t{32}}},
              {"past", DType::kF8E4M3, {"batch", std::int64_t{2}, "capacity", std::int64_t{32}}},
              {"write_index", DType::kI64, {"batch"}},
              {"seqlen", DType::kI64, {"batch"}}};
  g.outputs = {
      {"y", DType::kF32, {"batch", std::int64_t{2}, "sequence", std::int64_t{32}}},
      {"present", DType::kF8E4M3, {"batch", std::int64_t{2}, "capacity", std::int64_t{32}}}};
  g.initializers = {{"w", iota_f16({32, 32})},
                    {"odd", iota_f16({601})},
                    {"w2", iota_f16({32, 32})},
                    {"scale", f32_tensor({0.125f}, {})},
                    {"head_scales", f32_tensor({0.5f, 0.25f}, {2})},
                    {"shape", i64_tensor({0, 2, -1, 32})}};
  const std::int64_t f8 = onnx_dtype(DType::kF8E4M3);
  const std::int64_t axis = 1;
  g.nodes = {
      {"Cast", "w.f32", {"w"}, {"w.f32"}, {{"to", onnx_dtype(DType::kF32)}}},
      {"Transpose", "w.t", {"w.f32"}, {"w.t"}, {{"perm", std::vector<std::int64_t>{1, 0}}}},
      {"MatMul", "product", {"x", "w.t"}, {"product"}, {}},
      {"QuantizeLinear",
       "codes",
       {"product", "head_scales"},
       {"codes"},
       {{"axis", axis}, {"output_dtype", f8}, {"saturate", std::int64_t{1}}}},
      {"TensorScatter",
       "present",
       {"past", "codes", "write_index"},
       {"present"},
       {{"axis", std::int64_t{2}}, {"mode", std::string("linear")}}},
      {"DequantizeLinear", "kv", {"present", "head_scales"}, {"kv"}, {{"axis", axis}}},
      {"Attention",
       "context",
       {"x", "kv", "kv", "", "", "", "seqlen"},
       {"context"},
       {{"is_causal", std::int64_t{1}}, {"scale", 0.17677669f}}},
      {"Mul", "scaled", {"context", "scale"}, {"scaled"}, {}},
      {"Reshape", "y", {"scaled", "shape"}, {"y"}, {}},
  };
  return g;
}

}  // namespace kv8::graph
