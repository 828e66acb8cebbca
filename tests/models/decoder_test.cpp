#include "models/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "graph/onnx.h"
#include "models/golden_checkpoint.h"

namespace kv8::models {
namespace {

using graph::Graph;
using graph::Node;
using test::TempDir;
using ::testing::HasSubstr;

Graph build(const io::Checkpoint& checkpoint, bool portable = false, bool last_token_only = false) {
  DecoderOptions options = options_from_checkpoint(checkpoint).value();
  options.portable = portable;
  options.last_token_only = last_token_only;
  Result<Graph> graph = build_decoder_graph(checkpoint, options);
  EXPECT_TRUE(graph.ok()) << graph.error().message;
  return std::move(graph).value();
}

Graph build_fp8(const std::string& name, const Fp8Options& options = {}, bool portable = false) {
  TempDir dir;
  write_fp8_checkpoint(name, dir.path(), options);
  return build(io::Checkpoint::open(dir.path()).value(), portable);
}

const Node& producer(const Graph& graph, const std::string& value) {
  for (const Node& node : graph.nodes) {
    if (node.outputs[0] == value) return node;
  }
  throw std::runtime_error("nothing makes " + value);
}

bool has_value(const Graph& graph, const std::string& value) {
  return std::ranges::any_of(graph.nodes, [&](const Node& n) { return n.outputs[0] == value; });
}

std::int64_t int_attribute(const Node& node, const std::string& name) {
  const auto found = node.attributes.find(name);
  return found == node.attributes.end() ? -1 : std::get<std::int64_t>(found->second);
}

/// The operators that lead from `value` up to the first node with several activations as inputs,
/// read backwards: "DequantizeLinear < TensorScatter".
std::string chain(const Graph& graph, std::string value, int length) {
  std::string text;
  for (int i = 0; i < length; ++i) {
    const Node& node = producer(graph, value);
    text += (text.empty() ? "" : " < ") + node.op_type;
    if (node.op_type == "Cast") text += std::to_string(int_attribute(node, "to"));
    value = node.inputs[node.op_type == "TensorScatter" ? 1 : 0];
  }
  return text;
}

std::string shape_of_input(const Graph& graph, const std::string& name) {
  const std::string text = to_text(graph);
  const auto begin = text.find("input " + name + " ");
  if (begin == std::string::npos) return "";
  return text.substr(begin + 7 + name.size(), text.find('\n', begin) - begin - 7 - name.size());
}

TEST(Decoder, ListingOfAWholeModel) {
  const std::string expected = test::read_bytes(std::filesystem::path(KV8_SOURCE_DIR) /
                                                "tests/models/llama3_fp8_listing.txt");
  EXPECT_EQ(to_text(build_fp8("llama3")), expected);
}

class EveryModel : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Golden, EveryModel, ::testing::ValuesIn(golden_models()),
                         [](const auto& info) { return info.param; });

/// What is read from ONNX is what was built: the same listing, the same bytes in every tensor.
TEST_P(EveryModel, GraphFromOnnxEqualsGraphFromCheckpoint) {
  for (const bool portable : {false, true}) {
    for (const bool fp8 : {false, true}) {
      const Graph built = fp8 ? build_fp8(GetParam(), {.per_head = true}, portable)
                              : build(open_golden(GetParam()), portable);
      TempDir dir;
      ASSERT_TRUE(graph::write_onnx(built, dir.path(), {}).ok());
      const Result<Graph> read = graph::read_onnx(dir.path() / "model.onnx");
      ASSERT_TRUE(read.ok()) << read.error().message;
      EXPECT_EQ(to_text(*read), to_text(built));
      for (std::size_t i = 0; i < built.initializers.size(); ++i) {
        EXPECT_TRUE(std::ranges::equal(read->initializers[i].tensor.bytes,
                                       built.initializers[i].tensor.bytes))
            << built.initializers[i].name;
      }
    }
  }
}

/// Weights are the checkpoint's own memory, every one of them in the graph.
TEST_P(EveryModel, UsesEveryWeightWithoutACopy) {
  const io::Checkpoint checkpoint = open_golden(GetParam());
  const Graph graph = build(checkpoint, true);
  for (const std::string& name : checkpoint.tensor_names()) {
    const graph::Initializer* initializer = graph.find_initializer(name);
    ASSERT_NE(initializer, nullptr) << name;
    EXPECT_EQ(initializer->tensor.bytes.data(), checkpoint.tensor(name).value().bytes.data());
  }
}

TEST_P(EveryModel, AMissingWeightIsNamed) {
  for (const std::string name : {"model.norm.weight", "model.layers.1.mlp.up_proj.weight",
                                 "model.layers.0.self_attn.k_proj.weight"}) {
    TempDir dir;
    write_fp8_checkpoint(GetParam(), dir.path(), {.without = {name}});
    const io::Checkpoint checkpoint = io::Checkpoint::open(dir.path()).value();
    const auto graph = build_decoder_graph(checkpoint, options_from_checkpoint(checkpoint).value());
    ASSERT_FALSE(graph.ok());
    EXPECT_THAT(graph.error().message, HasSubstr(name));
  }
}

TEST_P(EveryModel, AMissingScaleIsAnErrorNeverOne) {
  const std::string name = "model.layers.1.self_attn.v_proj.v_scale";
  TempDir dir;
  write_fp8_checkpoint(GetParam(), dir.path(), {.without = {name}});
  const auto options = options_from_checkpoint(io::Checkpoint::open(dir.path()).value());
  ASSERT_FALSE(options.ok());
  EXPECT_THAT(options.error().message, HasSubstr(name));
}

TEST(Decoder, InputsAndCachesOfEachVariant) {
  const Graph fp16 = build(open_golden("qwen3")), fp8 = build_fp8("qwen3");
  const Graph portable = build_fp8("qwen3", {}, true);
  EXPECT_EQ(shape_of_input(fp16, "inputs_embeds"), "F16 [batch, sequence, 64]");
  EXPECT_EQ(shape_of_input(fp16, "past_key_values.2.value"), "F16 [batch, 2, capacity, 32]");
  EXPECT_EQ(shape_of_input(fp8, "past_key_values.0.key"), "F8_E4M3 [batch, 2, capacity, 32]");
  EXPECT_EQ(shape_of_input(portable, "past_key_values.0.key"), "F32 [batch, 2, capacity, 32]");
  EXPECT_EQ(shape_of_input(portable, "input_ids"), "I64 [batch, sequence]");
  EXPECT_EQ(shape_of_input(portable, "inputs_embeds"), "");
}

TEST(Decoder, CacheChains) {
  const auto k = [](const Graph& graph) {
    return producer(graph, "layers.0.attn.context_heads").inputs[1];
  };
  const Graph fp16 = build(open_golden("llama3")), fp8 = build_fp8("llama3");
  EXPECT_EQ(chain(fp16, k(fp16), 4), "Cast1 < TensorScatter < Cast10 < RotaryEmbedding");
  EXPECT_EQ(chain(fp8, k(fp8), 6),
            "DequantizeLinear < TensorScatter < QuantizeLinear < Cast1 < Cast10 < RotaryEmbedding");
  const Graph fp16_portable = build(open_golden("llama3"), true);
  const Graph fp8_portable = build_fp8("llama3", {}, true);
  EXPECT_EQ(chain(fp16_portable, k(fp16_portable), 4),
            "TensorScatter < Cast1 < Cast10 < RotaryEmbedding");
  EXPECT_EQ(chain(fp8_portable, k(fp8_portable), 6),
            "TensorScatter < DequantizeLinear < QuantizeLinear < Cast1 < Cast10 < RotaryEmbedding");
}

TEST(Decoder, Bf16ModelsRoundToBf16Once) {
  const Graph fp16 = build(open_golden("mistral")), fp8 = build_fp8("mistral");
  EXPECT_EQ(chain(fp16, "layers.1.attn.k", 5),
            "Cast1 < TensorScatter < Cast10 < Cast16 < RotaryEmbedding");
  EXPECT_EQ(chain(fp8, "layers.1.attn.v", 6),
            "DequantizeLinear < TensorScatter < QuantizeLinear < Cast1 < Cast16 < Transpose");
  EXPECT_EQ(chain(fp8, "layers.1.attn.q", 4), "DequantizeLinear < QuantizeLinear < Cast1 < Cast16");
  const Graph portable = build(open_golden("mistral"), true);
  EXPECT_EQ(chain(portable, "hidden", 3), "Cast1 < Cast10 < Gather");
}

TEST(Decoder, ScalesKeepTheirNamesValuesAndAxes) {
  const Graph graph = build_fp8("qwen3", {.per_head = true});
  for (int layer = 0; layer < 3; ++layer) {
    for (const char letter : {'k', 'v'}) {
      const std::string name =
          fmt::format("model.layers.{}.self_attn.{}_proj.{}_scale", layer, letter, letter);
      const auto* scale = graph.find_initializer(name);
      ASSERT_NE(scale, nullptr) << name;
      EXPECT_EQ(scale->tensor.shape, Shape{2});
      EXPECT_EQ(scale->tensor.data<float>()[1], test_scale(layer, letter, 1));
      const std::string value = fmt::format("layers.{}.attn.{}", layer, letter);
      for (const char* suffix : {"", "_codes"}) {
        EXPECT_EQ(producer(graph, value + suffix).inputs[1], name);
        EXPECT_EQ(int_attribute(producer(graph, value + suffix), "axis"), 1);
      }
    }
  }
  const Node& q = producer(graph, "layers.2.attn.q_codes");
  EXPECT_FALSE(q.attributes.contains("axis"));
  EXPECT_EQ(graph.find_initializer(q.inputs[1])->tensor.shape, Shape{});
  EXPECT_EQ(*graph.find_initializer(q.inputs[1])->tensor.data<float>(), test_scale(2, 'q', 0));
}

TEST(Decoder, QStaysAsItIsWithoutItsScaleOrWhenAskedTo) {
  EXPECT_FALSE(has_value(build_fp8("llama3", {.q_scale = false}), "layers.0.attn.q_codes"));
  TempDir dir;
  write_fp8_checkpoint("llama3", dir.path());
  const io::Checkpoint checkpoint = io::Checkpoint::open(dir.path()).value();
  DecoderOptions options = options_from_checkpoint(checkpoint).value();
  options.quantize_q = false;
  EXPECT_FALSE(
      has_value(build_decoder_graph(checkpoint, options).value(), "layers.0.attn.q_codes"));
}

TEST(Decoder, BiasesAndHeadNormsOfTheFamilies) {
  const Graph qwen2 = build(open_golden("qwen2")), qwen3 = build(open_golden("qwen3"));
  const Graph llama = build(open_golden("llama3"));
  for (const char letter : {'q', 'k', 'v'}) {
    const std::string value = fmt::format("layers.1.attn.{}_proj", letter);
    EXPECT_EQ(chain(qwen2, value, 2), "Add < MatMul");
    EXPECT_EQ(producer(llama, value).op_type, "MatMul");
  }
  EXPECT_EQ(producer(qwen2, "layers.1.attn.o_proj").op_type, "MatMul");
  EXPECT_EQ(chain(qwen3, "layers.1.attn.k_rotated", 3),
            "RotaryEmbedding < Transpose < RMSNormalization");
  EXPECT_EQ(chain(llama, "layers.1.attn.k_rotated", 3), "RotaryEmbedding < Transpose < Reshape");
  EXPECT_FALSE(has_value(qwen3, "layers.1.attn.v_norm"));
}

TEST(Decoder, OutputProjection) {
  const auto weight = [](const Graph& graph) {
    return producer(graph, producer(graph, producer(graph, "logits").inputs[1]).inputs[0])
        .inputs[0];
  };
  EXPECT_EQ(weight(build(open_golden("qwen3"))), "model.embed_tokens.weight");
  const Graph untied = build(open_golden("llama3"));
  EXPECT_EQ(weight(untied), "lm_head.weight");
  EXPECT_EQ(untied.find_initializer("model.embed_tokens.weight"), nullptr);
}

TEST(Decoder, YarnScalesCosAndSin) {
  const Graph yarn = build(open_golden("llama_yarn")), plain = build(open_golden("qwen3"));
  EXPECT_EQ(chain(yarn, "rope.cos", 2), "Mul < Cos");
  EXPECT_EQ(chain(yarn, "rope.sin", 2), "Mul < Sin");
  EXPECT_GT(*yarn.find_initializer("rope.attention_factor")->tensor.data<float>(), 1.0f);
  EXPECT_EQ(chain(plain, "rope.cos", 2), "Cos < Mul");
}

TEST(Decoder, LastTokenOnlyKeepsOneRow) {
  const Graph graph = build(open_golden("qwen2"), false, true);
  EXPECT_EQ(chain(graph, "final_norm", 2), "RMSNormalization < Gather");
  EXPECT_THAT(to_text(graph), HasSubstr("output logits F32 [batch, 1, 264]"));
  EXPECT_THAT(to_text(build(open_golden("qwen2"))),
              HasSubstr("output logits F32 [batch, sequence, 264]"));
}

/// Dynamic scaling changes the frequencies of keys that are cached already, beyond this length.
TEST(Decoder, DynamicRopeSaysHowFarItsTableHolds) {
  TempDir dir;
  write_fp8_checkpoint("llama2_linear", dir.path());
  std::string config = test::read_bytes(dir.path() / "config.json");
  config.replace(config.find("\"linear\""), 8, "\"dynamic\"");
  test::write_bytes(dir.path() / "config.json", config);
  const Graph graph = build(io::Checkpoint::open(dir.path()).value());
  EXPECT_EQ(graph.metadata.at("kv8.max_positions"), "256");
  EXPECT_FALSE(build(open_golden("llama2_linear")).metadata.contains("kv8.max_positions"));
}

}  // namespace
}  // namespace kv8::models
