#include "quant/kv_observer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "formats/float_formats.h"

namespace kv8::quant {
namespace {

void observe(const float* values, std::int64_t rows, std::int64_t head_dim,
             std::vector<std::uint32_t>& heads) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::uint32_t& head : heads) {
      std::uint32_t largest = head;
      for (std::int64_t i = 0; i < head_dim; ++i) {
        largest = std::max(largest, std::bit_cast<std::uint32_t>(values[i]) & 0x7FFFFFFFu);
      }
      head = largest;
      values += head_dim;
    }
  }
}

Result<std::vector<float>> rounded(const std::vector<std::uint32_t>& heads, std::size_t layer,
                                   std::string_view name) {
  std::vector<float> amax;
  for (std::size_t head = 0; head < heads.size(); ++head) {
    const float seen = std::bit_cast<float>(heads[head]);
    const float stored = f16_to_float(f16_from_float(seen));
    if (!std::isfinite(seen)) {
      return bad_input(
          "layer {}: {} of head {} became {} while calibrating; the model computes "
          "non-finite values and cannot be quantized",
          layer, name, head, seen);
    }
    if (!std::isfinite(stored)) {
      return bad_input(
          "layer {}: {} of head {} reached {} while calibrating, beyond FP16's largest "
          "value 65504",
          layer, name, head, seen);
    }
    amax.push_back(stored);
  }
  return amax;
}

}  // namespace

KvObserver::KvObserver(const Plan& plan) : head_dim_(plan.head_dim) {
  const auto heads = static_cast<std::size_t>(plan.num_heads);
  const auto kv_heads = static_cast<std::size_t>(plan.num_kv_heads);
  LayerBits nothing;
  nothing.q.assign(heads, 0);
  nothing.k.assign(kv_heads, 0);
  nothing.v.assign(kv_heads, 0);
  layers_.assign(static_cast<std::size_t>(plan.num_layers), nothing);
}

void KvObserver::on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
                        const float* v) {
  LayerBits& seen = layers_.at(static_cast<std::size_t>(layer));
  observe(q, rows, head_dim_, seen.q);
  observe(k, rows, head_dim_, seen.k);
  observe(v, rows, head_dim_, seen.v);
}

Result<std::vector<LayerAmax>> KvObserver::amax() const {
  std::vector<LayerAmax> result;
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    LayerAmax amax;
    amax.q = KV8_TRY(rounded(layers_[layer].q, layer, "Q"));
    amax.k = KV8_TRY(rounded(layers_[layer].k, layer, "K"));
    amax.v = KV8_TRY(rounded(layers_[layer].v, layer, "V"));
    result.push_back(std::move(amax));
  }
  return result;
}

}  // namespace kv8::quant
