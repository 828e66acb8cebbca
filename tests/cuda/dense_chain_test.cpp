#include <gtest/gtest.h>

#include <functional>

#include "cuda/dense/gemv/launch.h"
#include "cuda/dense/rows/launch.h"
#include "cuda/dense/sample/launch.h"
#include "cuda/dense_testing.h"
#include "cuda/gpu.h"

namespace kv8 {
namespace {

using cuda_testing::DeviceArray;
using cuda_testing::ModelType;
using cuda_testing::normal_values;

constexpr int kRows = 5, kHidden = 1024, kInner = 3000, kVocab = 9001, kLayers = 4;

/// A model without attention: what a decode step launches, in its order.
class Chain {
 public:
  Chain() {
    std::mt19937 random(1);
    const auto weights = [&](int out, int in) {
      return DeviceArray<std::uint16_t>(
          type_.narrow(normal_values(std::size_t(out) * in, 0.05f, random)));
    };
    for (int i = 0; i < kLayers; ++i) {
      norm_.push_back(weights(1, kHidden));
      gate_up_.push_back(weights(2 * kInner, kHidden));
      down_.push_back(weights(kHidden, kInner));
    }
    table_.set(type_.narrow(normal_values(std::size_t(kVocab) * kHidden, 1.0f, random)));
    std::vector<SampleSettings> settings(kRows);
    for (int i = 0; i < kRows; ++i) settings[i].temperature = 0.5f * i, settings[i].seed = i;
    settings_.set(settings);
  }

  Status launch(bool dependent, CUstream_st* stream) {
    EmbedArgs embed{ids_.get(), table_.get(), x_.get(), kRows, kHidden, kVocab, false, dependent};
    KV8_TRY(launch_embed(embed, stream));
    for (int i = 0; i < kLayers; ++i) {
      GemvArgs up = product(x_.get(), gate_up_[i], inner_.get(), kHidden, kInner, dependent);
      up.norm_weight = norm_[i].get();
      up.swiglu = true;
      KV8_TRY(launch_gemv(up, stream));
      GemvArgs down = product(inner_.get(), down_[i], x_.get(), kInner, kHidden, dependent);
      down.residual = x_.get();
      down.f32_out = true;
      KV8_TRY(launch_gemv(down, stream));
    }
    RmsNormArgs norm{x_.get(), norm_[0].get(), normed_.get(), kRows, kHidden};
    norm.dependent_launch = dependent;
    KV8_TRY(launch_rms_norm(norm, stream));
    GemvArgs head = product(normed_.get(), table_, logits_.get(), kHidden, kVocab, dependent);
    head.f32_out = true;
    KV8_TRY(launch_gemv(head, stream));
    SampleArgs sample;
    sample.logits = logits_.get();
    sample.settings = settings_.get();
    sample.tokens = tokens_.get();
    sample.ids = ids_.get();  // the next step's input
    sample.workspace = workspace_.get();
    sample.rows = kRows;
    sample.vocab = kVocab;
    sample.dependent_launch = dependent;
    return launch_sample(sample, stream);
  }

  /// Tokens and last logits of `steps` steps from the same start.
  std::pair<std::vector<std::int32_t>, std::vector<float>> run(int steps,
                                                               const std::function<void()>& step) {
    ids_.set({1, 2, 3, 4, 5});
    std::vector<std::int32_t> all;
    for (int i = 0; i < steps; ++i) {
      step();
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      for (const std::int32_t id : ids_.values()) all.push_back(id);
    }
    return {all, logits_.values()};
  }

 private:
  static GemvArgs product(const void* x, const DeviceArray<std::uint16_t>& weight, void* out,
                          int in, int out_features, bool dependent) {
    GemvArgs a;
    a.x = x;
    a.weight = weight.get();
    a.out = out;
    a.rows = kRows;
    a.in = in;
    a.out_features = out_features;
    a.dependent_launch = dependent;
    return a;
  }

  ModelType type_{false};
  std::vector<DeviceArray<std::uint16_t>> norm_, gate_up_, down_;
  DeviceArray<std::uint16_t> table_{std::size_t{kVocab} * kHidden};
  DeviceArray<std::uint16_t> inner_{std::size_t{kRows} * kInner};
  DeviceArray<std::uint16_t> normed_{std::size_t{kRows} * kHidden};
  DeviceArray<float> x_{std::size_t{kRows} * kHidden}, logits_{std::size_t{kRows} * kVocab};
  DeviceArray<std::int32_t> ids_{kRows};
  DeviceArray<SampleSettings> settings_{kRows};
  DeviceArray<SampleToken> tokens_{kRows};
  DeviceArray<std::uint8_t> workspace_{std::vector<std::uint8_t>(sample_workspace_bytes(kRows), 0)};
};

TEST(DenseChainTest, DependentLaunchesInAGraphGiveTheBitsOfPlainOnes) {
  KV8_NEEDS_GPU();
  Chain chain;
  constexpr int kSteps = 20;
  const auto plain = chain.run(kSteps, [&] {
    const Status status = chain.launch(false, nullptr);
    ASSERT_TRUE(status.ok()) << status.error().message;
  });
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const auto dependent = chain.run(kSteps, [&] {
    const Status status = chain.launch(true, stream);
    ASSERT_TRUE(status.ok()) << status.error().message;
  });
  EXPECT_EQ(dependent, plain);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const Status status = chain.launch(true, stream);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_TRUE(status.ok()) << status.error().message;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  const auto replayed =
      chain.run(kSteps, [&] { ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess); });
  EXPECT_EQ(replayed, plain);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace kv8
