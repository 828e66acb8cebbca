#include "cuda/engine_plan.h"

#include <cmath>
#include <string>
#include <vector>

#include "ops/rope.h"

namespace kv8::cuda_testing {
namespace {

constexpr int kPositions = 1024;

class DecoderMaker {
 public:
  DecoderMaker(const DecoderShape& shape, CacheKind cache) : shape_(shape), cache_(cache) {}

  RandomDecoder make() {
    Plan& plan = decoder_.plan;
    plan.hidden_size = shape_.hidden;
    plan.vocab_size = shape_.vocab;
    plan.num_layers = shape_.layers;
    plan.num_heads = shape_.heads;
    plan.num_kv_heads = shape_.kv_heads;
    plan.head_dim = shape_.head_dim;
    plan.model_dtype = shape_.dtype;
    plan.softmax_scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    plan.rope_inv_freq =
        make_rope_table({.theta = 10000.0, .head_dim = shape_.head_dim, .max_position = kPositions})
            ->inv_freq;
    plan.max_positions = kPositions;
    const int q = shape_.heads * shape_.head_dim;
    const int qkv = q + 2 * shape_.kv_heads * shape_.head_dim;
    // 0 hidden state, 1 normed, 2 qkv, 3 q, 4 attention, 5 gate and up, 6 inner, 7 selected,
    // 8 logits. A final norm may take the hidden state's slot, as the planner has it.
    plan.slot_cols = {shape_.hidden,    shape_.hidden, qkv,           q,           q,
                      2 * shape_.inner, shape_.inner,  shape_.hidden, shape_.vocab};
    plan.logits_slot = 8;
    for (std::int32_t layer = 0; layer < shape_.layers; ++layer) add_layer(layer, q, qkv);
    plan.steps.push_back(SelectRowsStep{0, 7});
    plan.steps.push_back(RmsNormStep{7, 0, norm(shape_.hidden), 1e-5f});
    plan.steps.push_back(LinearStep{0, 8, matrix(shape_.vocab, shape_.hidden)});
    if (cache_ == CacheKind::kFp8HalfScores) {
      fold_exponent_shift(plan, half_score_shift(plan.head_dim));
    }
    decoder_.embedding = random({shape_.vocab, shape_.hidden}, 1.0f, 0.0f, DType::kF16);
    return std::move(decoder_);
  }

 private:
  void add_layer(std::int32_t layer, int q, int qkv) {
    Plan& plan = decoder_.plan;
    plan.caches.push_back(layer_cache());
    plan.steps.push_back(RmsNormStep{0, 1, norm(shape_.hidden), 1e-5f});
    plan.steps.push_back(
        LinearStep{1, 2, matrix(qkv, shape_.hidden), shape_.bias ? bias(qkv) : kNone});
    const WeightIndex q_norm = shape_.head_norms ? head_norm() : kNone;
    const WeightIndex k_norm = shape_.head_norms ? head_norm() : kNone;
    plan.steps.push_back(RopeKvWriteStep{2, 3, layer, q_norm, k_norm, 1e-6f});
    plan.steps.push_back(AttentionStep{3, 4, layer});
    plan.steps.push_back(LinearStep{4, 0, matrix(shape_.hidden, q), kNone, 0});
    plan.steps.push_back(RmsNormStep{0, 1, norm(shape_.hidden), 1e-5f});
    plan.steps.push_back(LinearStep{1, 5, matrix(2 * shape_.inner, shape_.hidden)});
    plan.steps.push_back(SwiGluStep{5, 6});
    plan.steps.push_back(LinearStep{6, 0, matrix(shape_.hidden, shape_.inner), kNone, 0});
  }

  LayerCache layer_cache() const {
    LayerCache cache;
    if (cache_ == CacheKind::kF16) return cache;
    cache.dtype = DType::kF8E4M3;
    const int count = cache_ == CacheKind::kFp8PerHead ? shape_.kv_heads : 1;
    for (int head = 0; head < count; ++head) {
      cache.k_scale.push_back(0.02f + 0.003f * static_cast<float>(head));
      cache.v_scale.push_back(0.015f + 0.002f * static_cast<float>(head));
    }
    if (cache_ != CacheKind::kFp8WithF16Queries) cache.q_scale = {0.018f};
    return cache;
  }

  TensorView random(const Shape& shape, float deviation, float mean, DType dtype) {
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> values(static_cast<std::size_t>(checked_num_elements(shape).value()));
    for (float& value : values) value = normal(engine_);
    return convert(tensor_from_floats(values, shape), dtype).value();
  }
  WeightIndex add(const TensorView& tensor) {
    Plan& plan = decoder_.plan;
    plan.weights.push_back(
        {"w" + std::to_string(plan.weights.size()), tensor.dtype, tensor.shape, {tensor}});
    return static_cast<WeightIndex>(plan.weights.size() - 1);
  }
  WeightIndex matrix(int out, int in) {
    return add(random({out, in}, 1.0f / std::sqrt(static_cast<float>(in)), 0.0f, shape_.dtype));
  }
  WeightIndex bias(int out) { return add(random({out}, 0.5f, 0.0f, shape_.dtype)); }
  WeightIndex norm(int size) { return add(random({size}, 0.2f, 1.0f, DType::kF32)); }
  WeightIndex head_norm() { return add(random({shape_.head_dim}, 0.2f, 1.0f, shape_.dtype)); }

  const DecoderShape shape_;
  const CacheKind cache_;
  std::mt19937 engine_{17};
  RandomDecoder decoder_;
};

}  // namespace

RandomDecoder make_decoder(const DecoderShape& shape, CacheKind cache) {
  return DecoderMaker(shape, cache).make();
}

}  // namespace kv8::cuda_testing
