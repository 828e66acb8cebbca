#include "graph/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "graph/small_graph.h"

namespace kv8::graph {
namespace {

using ::testing::HasSubstr;

TEST(Validate, AcceptsAGraphInOrder) {
  const Status status = validate(small_graph());
  EXPECT_TRUE(status.ok()) << status.error().message;
}

struct Broken {
  const char* name;
  std::function<void(Graph&)> damage;
  std::vector<std::string> expected;
};

class ValidateBroken : public ::testing::TestWithParam<Broken> {};

TEST_P(ValidateBroken, NamesWhatIsWrong) {
  Graph graph = small_graph();
  GetParam().damage(graph);
  const Status status = validate(graph);
  ASSERT_FALSE(status.ok());
  for (const std::string& part : GetParam().expected) {
    EXPECT_THAT(status.error().message, HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Graphs, ValidateBroken,
    ::testing::Values(
        Broken{"order", [](Graph& g) { std::swap(g.nodes[0], g.nodes[1]); }, {"w.t", "w.f32"}},
        Broken{"unknown_input", [](Graph& g) { g.nodes[2].inputs[0] = "z"; }, {"product", "`z`"}},
        Broken{"unknown_operator",
               [](Graph& g) { g.nodes[2].op_type = "Gemm"; },
               {"product", "Gemm", "MatMul"}},
        Broken{"too_few_inputs",
               [](Graph& g) { g.nodes[2].inputs.pop_back(); },
               {"product", "1 inputs", "2 to 2"}},
        Broken{"too_many_inputs",
               [](Graph& g) { g.nodes[0].inputs.push_back("x"); },
               {"w.f32", "2 inputs"}},
        Broken{"required_input_left_out",
               [](Graph& g) { g.nodes[6].inputs[1].clear(); },
               {"context", "input 1"}},
        Broken{"two_producers", [](Graph& g) { g.nodes[1].outputs[0] = "w.f32"; }, {"w.f32"}},
        Broken{"hides_an_input", [](Graph& g) { g.nodes[0].outputs[0] = "x"; }, {"`x`"}},
        Broken{"two_outputs",
               [](Graph& g) { g.nodes[6].outputs.push_back("more"); },
               {"context", "2 outputs"}},
        Broken{"no_output", [](Graph& g) { g.nodes[8].outputs.clear(); }, {"0 outputs"}},
        Broken{"unnamed_output", [](Graph& g) { g.nodes[8].outputs[0].clear(); }, {"no name"}},
        Broken{"graph_output_from_nowhere", [](Graph& g) { g.outputs[0].name = "q"; }, {"`q`"}},
        Broken{"output_twice", [](Graph& g) { g.outputs.push_back(g.outputs[0]); }, {"`y`"}},
        Broken{"input_twice", [](Graph& g) { g.inputs.push_back(g.inputs[0]); }, {"`x`"}},
        Broken{"initializer_too_short",
               [](Graph& g) {
                 g.initializers[0].tensor.shape = {32, 33};
               },
               {"`w`", "1056", "2048"}},
        Broken{"initializer_overflows",
               [](Graph& g) {
                 g.initializers[0].tensor.shape = {std::int64_t{1} << 62, std::int64_t{1} << 62};
               },
               {"`w`"}},
        Broken{"initializer_negative",
               [](Graph& g) { g.initializers[0].tensor.shape = {-1}; },
               {"`w`", "-1"}}),
    [](const auto& info) { return info.param.name; });

TEST(OnnxTypes, NumbersAreThoseOfTheStandard) {
  const std::vector<std::pair<DType, int>> expected = {
      {DType::kF32, 1},  {DType::kU8, 2},   {DType::kI32, 6},   {DType::kI64, 7},
      {DType::kBool, 9}, {DType::kF16, 10}, {DType::kBF16, 16}, {DType::kF8E4M3, 17}};
  for (const auto& [dtype, number] : expected) {
    EXPECT_EQ(onnx_dtype(dtype), number);
    EXPECT_EQ(dtype_from_onnx(number).value(), dtype);
  }
  for (const int number : {0, 8, 11, 18, -1, 1 << 20}) {
    EXPECT_FALSE(dtype_from_onnx(number).ok()) << number;
  }
}

TEST(ToText, ShowsEverything) {
  EXPECT_EQ(to_text(small_graph()), R"(graph small
metadata kv8.graph_version = 1
metadata model_type = none
input x F32 [batch, 2, sequence, 32]
input past F8_E4M3 [batch, 2, capacity, 32]
input write_index I64 [batch]
input seqlen I64 [batch]
initializer w F16 [32, 32]
initializer odd F16 [601]
initializer w2 F16 [32, 32]
initializer scale F32 []
initializer head_scales F32 [2]
initializer shape I64 [4]
w.f32 = Cast(w) {to=1}
w.t = Transpose(w.f32) {perm=[1, 0]}
product = MatMul(x, w.t)
codes = QuantizeLinear(product, head_scales) {axis=1, output_dtype=17, saturate=1}
present = TensorScatter(past, codes, write_index) {axis=2, mode=linear}
kv = DequantizeLinear(present, head_scales) {axis=1}
context = Attention(x, kv, kv, -, -, -, seqlen) {is_causal=1, scale=0.17677669}
scaled = Mul(context, scale)
y = Reshape(scaled, shape)
output y F32 [batch, 2, sequence, 32]
output present F8_E4M3 [batch, 2, capacity, 32]
)");
}

}  // namespace
}  // namespace kv8::graph
