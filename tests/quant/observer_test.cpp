#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "quant/checkpoint_writer.h"
#include "quant/kv_observer.h"

namespace kv8::quant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Plan small_plan() {
  Plan plan;
  plan.num_layers = 2;
  plan.num_heads = 2;
  plan.num_kv_heads = 1;
  plan.head_dim = 2;
  return plan;
}

TEST(KvObserver, TakesTheLargestMagnitudeOfEveryHead) {
  KvObserver observer(small_plan());
  const float q[] = {1, -2, 0.5f, 0.25f, -3, 0, 0, 0.75f};
  const float k[] = {-0.0f, 0, 0, 0}, v[] = {1, 2, -8, 4};
  observer.on_qkv(0, 2, q, k, v);
  const float more[] = {-2.5f, 0, 7, 0}, less[] = {0.125f, 0};
  observer.on_qkv(1, 1, more, less, less);
  const auto amax = observer.amax().value();
  ASSERT_EQ(amax.size(), 2u);
  EXPECT_THAT(amax[0].q, ElementsAre(3.0f, 0.75f));
  EXPECT_THAT(amax[0].k, ElementsAre(0.0f));
  EXPECT_THAT(amax[0].v, ElementsAre(8.0f));
  EXPECT_THAT(amax[1].q, ElementsAre(2.5f, 7.0f));
  EXPECT_THAT(amax[1].k, ElementsAre(0.125f));
}

TEST(KvObserver, NonFiniteValuesNameTheLayer) {
  const float fine[] = {1, 1, 1, 1};
  const auto fails_with = [&](float bad, const char* what) {
    KvObserver observer(small_plan());
    const float v[] = {0, bad};
    observer.on_qkv(1, 1, fine, fine, v);
    observer.on_qkv(1, 1, fine, fine, fine);
    const auto amax = observer.amax();
    ASSERT_FALSE(amax.ok());
    EXPECT_THAT(amax.error().message, HasSubstr("layer 1: V of head 0"));
    EXPECT_THAT(amax.error().message, HasSubstr(what));
  };
  fails_with(std::numeric_limits<float>::quiet_NaN(), "nan");
  fails_with(-std::numeric_limits<float>::infinity(), "inf");
  fails_with(70000.0f, "65504");
}

TEST(Scales, AreAmaxOver448WithAFloor) {
  EXPECT_EQ(scale_from_amax(448.0f), 1.0f);
  EXPECT_EQ(scale_from_amax(3.0f), 3.0f / 448.0f);
  EXPECT_EQ(scale_from_amax(0.0f), kMinScale);
  LayerAmax amax{{1.0f, 4.0f}, {0.5f, 5.0f, 0.0f}, {2.0f, 1.0f, 3.0f}};
  const io::LayerKvScales tensor = layer_scales(amax, false), head = layer_scales(amax, true);
  EXPECT_THAT(tensor.q, ElementsAre(4.0f / 448.0f));
  EXPECT_THAT(tensor.k, ElementsAre(5.0f / 448.0f));
  EXPECT_THAT(head.q, ElementsAre(4.0f / 448.0f));
  EXPECT_THAT(head.k, ElementsAre(0.5f / 448.0f, 5.0f / 448.0f, kMinScale));
  EXPECT_THAT(head.v, ElementsAre(2.0f / 448.0f, 1.0f / 448.0f, 3.0f / 448.0f));
}

}  // namespace
}  // namespace kv8::quant
