// Random matrices of the model's type for the tests of the dense kernels.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "formats/float_formats.h"
#include "tensor/tensor.h"

namespace kv8::cuda_testing {

/// Values of the model's type as bits, and what they mean.
class ModelType {
 public:
  explicit ModelType(bool bf16) : bf16_(bf16) {}
  DType dtype() const { return bf16_ ? DType::kBF16 : DType::kF16; }
  std::uint16_t narrow(float x) const { return bf16_ ? bf16_from_float(x) : f16_from_float(x); }
  float widen(std::uint16_t bits) const { return bf16_ ? bf16_to_float(bits) : f16_to_float(bits); }
  /// Largest relative error of one rounding to this type.
  double unit() const { return bf16_ ? 0x1p-8 : 0x1p-11; }

  std::vector<std::uint16_t> narrow(const std::vector<float>& x) const {
    std::vector<std::uint16_t> bits;
    for (const float value : x) bits.push_back(narrow(value));
    return bits;
  }
  std::vector<float> widen(const std::vector<std::uint16_t>& bits) const {
    std::vector<float> x;
    for (const std::uint16_t value : bits) x.push_back(widen(value));
    return x;
  }

 private:
  bool bf16_;
};

inline std::vector<float> normal_values(std::size_t count, float scale, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& x : values) x = scale * normal(random);
  return values;
}

}  // namespace kv8::cuda_testing
