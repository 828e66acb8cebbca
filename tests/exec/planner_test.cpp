#include "exec/planner.h"

#include <cmath>
#include <functional>
#include <random>
#include <stdexcept>

#include "exec/exec_testing.h"
#include "exec/plan_json.h"
#include "exec/slots.h"

namespace kv8::exec {
namespace {

using graph::Attribute;
using graph::Graph;
using graph::Node;

template <typename T>
std::vector<T> steps_of(const Plan& plan) {
  std::vector<T> found;
  for (const Step& step : plan.steps) {
    if (const T* typed = std::get_if<T>(&step)) found.push_back(*typed);
  }
  return found;
}

const PlanWeight& weight_at(const Plan& plan, WeightIndex index) {
  return plan.weights.at(static_cast<std::size_t>(index));
}

class Planner : public ::testing::TestWithParam<std::string> {};

TEST_P(Planner, FusesTheWholeDecoder) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(tiny_model(GetParam())).value();
  const io::ModelConfig& config = checkpoint.config();
  const Plan plan = plan_graph(decoder_graph(tiny_model(GetParam())), {}).value();
  EXPECT_EQ(plan.hidden_size, config.hidden_size);
  EXPECT_EQ(plan.vocab_size, config.vocab_size);
  EXPECT_EQ(plan.num_layers, config.num_layers);
  EXPECT_EQ(plan.num_heads, config.num_heads);
  EXPECT_EQ(plan.num_kv_heads, config.num_kv_heads);
  EXPECT_EQ(plan.head_dim, config.head_dim);
  EXPECT_EQ(plan.model_dtype, config.dtype);
  EXPECT_EQ(plan.rope_inv_freq, make_rope_table(config.rope).value().inv_freq);

  const auto layers = static_cast<std::size_t>(config.num_layers);
  EXPECT_EQ(plan.steps.size(), 9 * layers + 3);
  const auto linears = steps_of<LinearStep>(plan);
  ASSERT_EQ(linears.size(), 4 * layers + 1);
  const bool norms = config.family == io::Family::kQwen3;
  const std::int64_t qkv_rows =
      (config.num_heads + 2 * std::int64_t{config.num_kv_heads}) * config.head_dim;
  for (std::size_t i = 0; i < layers; ++i) {
    const LinearStep &qkv = linears[4 * i], &o = linears[4 * i + 1], &gate_up = linears[4 * i + 2],
                     &down = linears[4 * i + 3];
    const std::string self = fmt::format("model.layers.{}.self_attn.", i);
    EXPECT_EQ(weight_at(plan, qkv.weight).name, fmt::format("{0}q_proj.weight+{0}k_proj.weight+"
                                                            "{0}v_proj.weight",
                                                            self));
    EXPECT_EQ(weight_at(plan, qkv.weight).shape, (Shape{qkv_rows, config.hidden_size}));
    EXPECT_EQ(qkv.bias != kNone, config.attention_bias);
    if (qkv.bias != kNone) {
      EXPECT_EQ(weight_at(plan, qkv.bias).shape, (Shape{qkv_rows}));
      EXPECT_EQ(weight_at(plan, qkv.bias).parts.size(), 3u);
    }
    EXPECT_EQ(qkv.residual, kNone);
    EXPECT_EQ(weight_at(plan, gate_up.weight).shape,
              (Shape{2 * config.intermediate_size, config.hidden_size}));
    EXPECT_EQ(o.residual, o.out);
    EXPECT_EQ(down.residual, down.out);
    const RopeKvWriteStep rope = steps_of<RopeKvWriteStep>(plan)[i];
    EXPECT_EQ(rope.layer, static_cast<std::int32_t>(i));
    EXPECT_EQ(rope.q_norm != kNone && rope.k_norm != kNone, norms);
    EXPECT_EQ(rope.norm_eps, norms ? config.rms_norm_eps : 0.0f);
  }
  // Rows are selected before the final norm.
  EXPECT_TRUE(std::holds_alternative<SelectRowsStep>(plan.steps[9 * layers]));
  EXPECT_TRUE(std::holds_alternative<RmsNormStep>(plan.steps[9 * layers + 1]));
  EXPECT_EQ(plan.logits_slot, linears.back().out);
}

TEST_P(Planner, SharesSlotsWhoseValuesAreNotNeededTogether) {
  const Plan plan = plan_graph(decoder_graph(tiny_model(GetParam())), {}).value();
  // Hidden state, its norm, QKV, Q, context, gate and up, their product, logits.
  EXPECT_LE(plan.slot_cols.size(), 8u);
  EXPECT_TRUE(validate(plan).ok());
  // The logits may lie in the caller's memory: nothing else goes there.
  for (std::size_t i = 0; i + 1 < plan.steps.size(); ++i) {
    EXPECT_NE(slots_of(plan.steps[i]).out, plan.logits_slot);
  }
}

TEST_P(Planner, TakesScalesFromTheGraph) {
  for (const Scales scales : {Scales::kPerTensor, Scales::kPerHead}) {
    const test::TempDir dir;
    ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint(GetParam(), scales, dir.path()));
    const io::Checkpoint checkpoint = io::Checkpoint::open(dir.path()).value();
    const auto expected = checkpoint.kv_scales().value();
    const Graph graph = decoder_graph(dir.path());
    const Plan plan = plan_graph(graph, {}).value(), q16 = plan_graph(graph, {DType::kF16}).value();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(plan.caches[i].dtype, DType::kF8E4M3);
      EXPECT_EQ(plan.caches[i].k_scale, expected[i].k);
      EXPECT_EQ(plan.caches[i].v_scale, expected[i].v);
      EXPECT_EQ(plan.caches[i].q_scale, expected[i].q);
      EXPECT_EQ(q16.caches[i].k_scale, expected[i].k);
      EXPECT_TRUE(q16.caches[i].q_scale.empty());
    }
  }
}

TEST_P(Planner, FoldsTheExponentShiftIntoTheScales) {
  const test::TempDir dir;
  ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint(GetParam(), Scales::kPerHead, dir.path()));
  const Graph graph = decoder_graph(dir.path());
  const Plan plain = plan_graph(graph, {}).value();
  EXPECT_EQ(plain.qk_exponent_shift, 0);
  EXPECT_EQ(plain.q_limit(), 448.0f);
  const Plan shifted = plan_graph(graph, {.qk_exponent_shift = 9}).value();
  EXPECT_EQ(shifted.qk_exponent_shift, 9);
  EXPECT_EQ(shifted.q_limit(), 14.0f);
  EXPECT_EQ(shifted.k_limit(), 28.0f);
  for (std::size_t i = 0; i < plain.caches.size(); ++i) {
    const LayerCache &a = plain.caches[i], &b = shifted.caches[i];
    EXPECT_EQ(b.q_scale[0], 32 * a.q_scale[0]);
    EXPECT_EQ(b.v_scale, a.v_scale);
    for (std::size_t h = 0; h < a.k_scale.size(); ++h) EXPECT_EQ(b.k_scale[h], 16 * a.k_scale[h]);
  }
  const Plan fitted = plan_graph(graph, {.fit_half_scores = true}).value();
  EXPECT_EQ(fitted.qk_exponent_shift, half_score_shift(plain.head_dim));
  // Explicitly asked for, it is not ignored.
  expect_error(plan_graph(graph, {.q_dtype = DType::kF16, .qk_exponent_shift = 9}),
               {"qk_exponent_shift of 9", "FP8 queries"});
  expect_error(plan_graph(graph, {.qk_exponent_shift = 17}),
               {"qk_exponent_shift is 17", "0 to 16"});
  EXPECT_EQ(plan_graph(graph, {.q_dtype = DType::kF16, .fit_half_scores = true})->qk_exponent_shift,
            0);
}

TEST(HalfScoreShift, KeepsSumsOfProductsWithinHalf) {
  EXPECT_EQ(half_score_shift(128), 9);
  EXPECT_EQ(half_score_shift(64), 8);
  for (int head_dim = 1; head_dim <= 256; ++head_dim) {
    const double largest = 448.0 * 448.0 * head_dim;
    const int shift = half_score_shift(head_dim);
    EXPECT_LE(std::ldexp(largest, -shift), 65504.0);
    EXPECT_GT(std::ldexp(largest, 1 - shift), 65504.0);
  }
}

TEST_P(Planner, LastTokenOnlyMakesTheSamePlan) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(tiny_model(GetParam())).value();
  models::DecoderOptions options;
  const Graph all = models::build_decoder_graph(checkpoint, options).value();
  options.last_token_only = true;
  const Graph last = models::build_decoder_graph(checkpoint, options).value();
  EXPECT_EQ(plan_to_json(plan_graph(last, {}).value()).value(),
            plan_to_json(plan_graph(all, {}).value()).value());
}

TEST_P(Planner, RefusesThePortableVariantByName) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(tiny_model(GetParam())).value();
  models::DecoderOptions options;
  options.portable = true;
  expect_error(plan_graph(models::build_decoder_graph(checkpoint, options).value(), {}),
               {"made for ONNX Runtime", "export without --portable"});
}

INSTANTIATE_TEST_SUITE_P(Models, Planner, ::testing::ValuesIn(kTinyModels));

/// Changes of a good FP8 graph, each with what the error must say.
struct Change {
  std::string name;
  std::function<void(Graph&)> apply;
  std::vector<std::string> expected;
};

Node& node(Graph& graph, const std::string& output) {
  for (Node& node : graph.nodes) {
    if (node.outputs[0] == output) return node;
  }
  throw std::runtime_error("no node " + output);
}

graph::Initializer& constant(Graph& graph, const std::string& name) {
  for (graph::Initializer& initializer : graph.initializers) {
    if (initializer.name == name) return initializer;
  }
  throw std::runtime_error("no constant " + name);
}

void set_scale(Graph& graph, float value) {
  constant(graph, "model.layers.1.self_attn.k_proj.k_scale").tensor =
      tensor_from_floats(std::span(&value, 1), {});
}

std::vector<Change> changes() {
  const auto op = [](std::string output, std::string op_type) {
    return [=](Graph& g) { node(g, output).op_type = op_type; };
  };
  const auto operand = [](std::string output, std::size_t index, std::string value) {
    return [=](Graph& g) { node(g, output).inputs.at(index) = value; };
  };
  const auto attribute = [](std::string output, std::string name, Attribute value) {
    return [=](Graph& g) { node(g, output).attributes[name] = value; };
  };
  const std::string k_scale = "model.layers.1.self_attn.k_proj.k_scale";
  return {
      {"other activation",
       op("layers.1.mlp.activated", "Sin"),
       {"layer 1", "`layers.1.mlp.activated` (Sin)", "expected Swish"}},
      {"gate in place of the norm",
       operand("layers.0.mlp.up_proj", 0, "layers.0.input_norm"),
       {"layer 0", "gate_proj and up_proj"}},
      {"residual skips the attention",
       operand("layers.1.hidden", 0, "layers.0.hidden"),
       {"layer 1", "expected the norm of `layers.0.hidden`"}},
      {"interleaved rotation",
       attribute("layers.1.attn.k_rotated", "interleaved", Attribute{std::int64_t{1}}),
       {"`layers.1.attn.k_rotated` (RotaryEmbedding)", "interleaved is 1, expected 0"}},
      {"attention without the causal mask",
       attribute("layers.0.attn.context_heads", "is_causal", Attribute{std::int64_t{0}}),
       {"(Attention)", "is_causal is 0, expected 1"}},
      {"soft cap",
       attribute("layers.0.attn.context_heads", "softcap", Attribute{30.0f}),
       {"(Attention)", "softcap"}},
      {"negative softmax scale",
       attribute("layers.1.attn.context_heads", "scale", Attribute{-1.0f}),
       {"(Attention)", "scale -1"}},
      {"another softmax scale",
       attribute("layers.0.attn.context_heads", "scale", Attribute{0.5f}),
       {"layer 0", "the same in all layers"}},
      {"cache of another layer",
       operand("present.1.key", 0, "past_key_values.0.key"),
       {"`present.1.key` (TensorScatter)", "`past_key_values.1.key`"}},
      {"circular cache",
       attribute("present.0.value", "mode", Attribute{std::string("circular")}),
       {"(TensorScatter)", "circular"}},
      {"other length",
       operand("layers.1.attn.context_heads", 6, "cache_write_index"),
       {"(Attention)", "nonpad_kv_seqlen"}},
      {"K dequantized with V's scale",
       operand("layers.1.attn.k", 1, "model.layers.1.self_attn.v_proj.v_scale"),
       {"(QuantizeLinear)", "k_scale", "v_scale"}},
      {"zero scale", [](Graph& g) { set_scale(g, 0.0f); }, {k_scale, "value 0"}},
      {"negative scale", [](Graph& g) { set_scale(g, -0.5f); }, {k_scale, "value -0.5"}},
      {"NaN scale", [](Graph& g) { set_scale(g, std::nanf("")); }, {k_scale, "nan"}},
      {"infinite scale", [](Graph& g) { set_scale(g, INFINITY); }, {k_scale, "inf"}},
      {"three scales for two heads",
       [=](Graph& g) {
         const std::vector<float> values(3, 0.1f);
         constant(g, k_scale).tensor = tensor_from_floats(values, {3});
       },
       {k_scale, "[3]", "[] or [2]"}},
      {"scales along another axis",
       [=](Graph& g) {
         const std::vector<float> values(2, 0.1f);
         constant(g, k_scale).tensor = tensor_from_floats(values, {2});
         node(g, "layers.1.attn.k_codes").attributes["axis"] = std::int64_t{3};
       },
       {"(QuantizeLinear)", "axis 1"}},
      {"no saturation",
       attribute("layers.1.attn.v_codes", "saturate", Attribute{std::int64_t{0}}),
       {"(QuantizeLinear)", "saturate is 0"}},
      {"weight of the wrong shape",
       [](Graph& g) {
         const std::vector<float> values(12, 0.5f);
         constant(g, "model.layers.1.mlp.up_proj.weight").tensor =
             tensor_from_floats(values, {3, 4});
       },
       {"layer 1", "model.layers.1.mlp.up_proj.weight", "[3, 4]"}},
      {"cast of a weight to FP16",
       attribute("model.layers.0.mlp.up_proj.weight.f32", "to",
                 Attribute{graph::onnx_dtype(DType::kF16)}),
       {"(Cast)", "casts to F16, expected F32"}},
      {"keys rounded to FP32",
       attribute("layers.0.attn.k_rounded", "to", Attribute{graph::onnx_dtype(DType::kF32)}),
       {"(Cast)", "F16 or BF16"}},
      {"queries rounded otherwise than keys",
       attribute("layers.0.attn.q_rounded", "to", Attribute{graph::onnx_dtype(DType::kBF16)}),
       {"Q is rounded to BF16"}},
      {"unknown attribute",
       attribute("layers.0.input_norm", "surprise", Attribute{2.0f}),
       {"(RMSNormalization)", "surprise"}},
      {"node beside the decoder",
       [](Graph& g) {
         g.nodes.push_back({"Sin", "spare", {"logits"}, {"spare"}, {}});
       },
       {"`spare` (Sin)", "no part of a decoder"}},
      {"missing cache input",
       [](Graph& g) { g.inputs.back().name = "past_key_values.7.value"; },
       {}},
      {"FP16 cache input",
       [](Graph& g) { g.inputs[5].dtype = DType::kF16; },
       {"past_key_values.0.value", "F16"}},
      {"cache input of another size",
       [](Graph& g) { g.inputs[4].shape[1] = std::int64_t{5}; },
       {"past_key_values.0.key", "capacity"}},
      {"missing output", [](Graph& g) { g.outputs.pop_back(); }, {"outputs"}},
      {"lying metadata",
       [](Graph& g) { g.metadata["kv8.max_positions"] = "12x"; },
       {"kv8.max_positions", "12x"}},
  };
}

TEST(PlannerErrors, NameTheNodeAndWhatWasExpected) {
  const test::TempDir dir;
  ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint("qwen3", Scales::kPerTensor, dir.path()));
  const Graph good = decoder_graph(dir.path());
  ASSERT_TRUE(plan_graph(good, {}).ok());
  for (const Change& change : changes()) {
    SCOPED_TRACE(change.name);
    Graph graph = good;
    ASSERT_NO_THROW(change.apply(graph));
    expect_error(plan_graph(graph, {}), change.expected);
  }
}

TEST(PlannerScales, MixesScalesPerTensorAndPerHead) {
  const test::TempDir dir;
  ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint("qwen3", Scales::kPerHead, dir.path()));
  Graph graph = decoder_graph(dir.path());
  const float scale = 0.25f;
  constant(graph, "model.layers.0.self_attn.v_proj.v_scale").tensor =
      tensor_from_floats(std::span(&scale, 1), {});
  const Plan plan = plan_graph(graph, {}).value();
  EXPECT_EQ(plan.caches[0].k_scale.size(), 2u);
  EXPECT_EQ(plan.caches[0].v_scale, (std::vector<float>{0.25f, 0.25f}));
}

/// Rewires, renames and renumbers at random; every outcome but a crash or an inconsistent plan is
/// fine.
class GraphBreaker {
 public:
  explicit GraphBreaker(unsigned seed) : random_(seed) {}

  void damage(Graph& graph) {
    Node& node = graph.nodes[pick(graph.nodes.size())];
    switch (pick(7)) {
      case 0:
        node.op_type = graph.nodes[pick(graph.nodes.size())].op_type;
        break;
      case 1:
        if (!node.inputs.empty()) node.inputs[pick(node.inputs.size())] = any_value(graph);
        break;
      case 2:
        if (!node.inputs.empty()) node.inputs.pop_back();
        break;
      case 3:
        node.inputs.push_back(any_value(graph));
        break;
      case 4:
        for (auto& [name, value] : node.attributes) value = any_attribute();
        break;
      case 5: {
        TensorView& tensor = graph.initializers[pick(graph.initializers.size())].tensor;
        tensor = graph.initializers[pick(graph.initializers.size())].tensor;
        break;
      }
      default:
        graph::ValueInfo& input = graph.inputs[pick(graph.inputs.size())];
        input.shape.resize(pick(5), std::int64_t{-3});
        if (pick(2) == 0) input.dtype = static_cast<DType>(pick(8));
    }
  }

 private:
  std::size_t pick(std::size_t count) { return random_() % count; }
  std::string any_value(const Graph& graph) {
    switch (pick(4)) {
      case 0:
        return graph.inputs[pick(graph.inputs.size())].name;
      case 1:
        return graph.initializers[pick(graph.initializers.size())].name;
      case 2:
        return "";
      default:
        return graph.nodes[pick(graph.nodes.size())].outputs[0];
    }
  }
  Attribute any_attribute() {
    switch (pick(5)) {
      case 0:
        return static_cast<std::int64_t>(random_()) - (std::int64_t{1} << 31);
      case 1:
        return std::nanf("");
      case 2:
        return std::string("x");
      case 3:
        return std::vector<std::int64_t>{};
      default:
        return std::vector<float>{1.0f};
    }
  }
  std::mt19937 random_;
};

TEST(PlannerErrors, RandomDamageNeverCrashes) {
  const test::TempDir dir;
  ASSERT_NO_FATAL_FAILURE(write_fp8_checkpoint("qwen2", Scales::kPerHead, dir.path()));
  const Graph good = decoder_graph(dir.path());
  int refused = 0;
  for (unsigned seed = 0; seed < 1500; ++seed) {
    Graph graph = good;
    GraphBreaker breaker(seed);
    for (unsigned i = 0; i <= seed % 3; ++i) breaker.damage(graph);
    const Result<Plan> plan = plan_graph(graph, {});
    if (plan.ok()) {
      EXPECT_TRUE(validate(*plan).ok());
    } else {
      ++refused;
      EXPECT_FALSE(plan.error().message.empty());
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Slots, KeepsResidualsThatAreReadAgain) {
  // 0 -> linear 1 (+ 0), norm of 0 -> 2: slot 0 must survive the first step.
  Plan plan;
  plan.slot_cols = {8, 8, 8};
  plan.steps = {LinearStep{0, 1, 0, kNone, kNone}, LinearStep{1, 2, 0, kNone, 0},
                RmsNormStep{0, 1, 0, 1e-5f}};
  plan.slot_cols.push_back(8);
  std::get<RmsNormStep>(plan.steps[2]).out = 3;
  plan.logits_slot = 3;
  assign_slots(plan);
  const StepSlots sum = slots_of(plan.steps[1]), norm = slots_of(plan.steps[2]);
  EXPECT_NE(sum.out, sum.residual);
  EXPECT_EQ(norm.in, sum.residual);
  EXPECT_NE(norm.out, norm.in);
}

}  // namespace
}  // namespace kv8::exec
