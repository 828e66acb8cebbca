// The largest absolute value of Q, K and V, per layer and head.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/backend.h"
#include "quant/calibrate.h"

namespace kv8::quant {

/// A tap for calibration. Maxima do not depend on order, so neither on batching nor on threads.
class KvObserver final : public TapSink {
 public:
  explicit KvObserver(const Plan& plan);
  void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
              const float* v) override;

  /// Maxima rounded to FP16, which is what the cache write rounds the values to before it divides.
  /// kBadInput, naming layer and tensor, where NaN or infinity was seen or FP16 overflows.
  Result<std::vector<LayerAmax>> amax() const;

 private:
  /// Bits of the largest magnitude of each head. As integers, magnitudes of floats are in order,
  /// with infinity and NaN above all others, so that they cannot hide.
  struct LayerBits {
    std::vector<std::uint32_t> q, k, v;
  };
  std::int32_t head_dim_;
  std::vector<LayerBits> layers_;
};

}  // namespace kv8::quant
