// What the product of a few rows with a weight matrix takes, as plain structs without CUDA types.
#pragma once

#include <cstdint>

namespace kv8 {

inline constexpr int kGemvMaxRows = 8;

/// out[r, o] = sum_i x[r, i] * weight[o, i] (+ bias[o]) (+ residual[r, o]), FP32 sums, one rounding
/// to the output's type. "Model's type" is FP16 or BF16, the same for x, weights and bias.
///
/// With `norm_weight` x is the FP32 residual stream, which every block normalises for itself:
/// x[r, i] / sqrt(mean(x[r]^2) + norm_eps) * norm_weight[i], rounded to the model's type.
///
/// With `swiglu` the matrix has 2 * out_features rows, gates then ups, and
/// out[r, o] = silu(gate[r, o]) * up[r, o]; gate and up stay FP32 in between. No bias, no residual.
///
/// All pointers are device pointers, aligned to 16 bytes. The same input gives the same bits on the
/// same device.
struct GemvArgs {
  const void* x = nullptr;          ///< [rows][in], model's type; FP32 with norm_weight
  const void* weight = nullptr;     ///< [out_features][in], model's type
  const void* bias = nullptr;       ///< [out_features], model's type, or null
  const float* residual = nullptr;  ///< [rows][out_features] or null; may equal `out`
  void* out = nullptr;              ///< [rows][out_features], model's type or FP32

  const void* norm_weight = nullptr;  ///< [in] or null
  float norm_eps = 1e-6f;
  bool norm_weight_f32 = false;  ///< FP32 norm weights, else the model's type

  int rows = 0;  ///< 1 to kGemvMaxRows
  int in = 0;    ///< a multiple of 8
  int out_features = 0;

  bool bf16 = false;     ///< the model's type: BF16, else FP16
  bool f32_out = false;  ///< FP32 output; needed with a residual
  bool swiglu = false;

  /// Start while the kernel before still runs, and fetch weights until it ends.
  bool dependent_launch = false;
};

}  // namespace kv8
