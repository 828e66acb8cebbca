// Q, K and V for calibration: normalised and rotated, FP32, before any rounding.
#pragma once

#include <driver_types.h>

#include <cstdint>

namespace kv8::cuda_engine {

/// Device pointers; "model's type" is BF16 where `bf16` is set, else FP16.
struct QkvTapArgs {
  const void* qkv = nullptr;  ///< [rows][(num_heads + 2 * num_kv_heads) * head_dim], model's type
  const std::int32_t* positions = nullptr;  ///< [rows]
  const float* cos = nullptr;               ///< [positions][head_dim / 2]
  const float* sin = nullptr;
  const void* q_norm = nullptr;  ///< [head_dim], model's type, or null
  const void* k_norm = nullptr;
  float norm_eps = 1e-6f;
  float* out = nullptr;  ///< q [rows][num_heads][head_dim], then k and v [rows][num_kv_heads][...]
  int rows = 0, num_heads = 0, num_kv_heads = 0;
  int head_dim = 0;  ///< up to 256, even
  bool bf16 = false;
};

/// Enqueues one kernel: docs/numbers.md, steps 1 and 2.
cudaError_t launch_qkv_tap(const QkvTapArgs& args, cudaStream_t stream);

}  // namespace kv8::cuda_engine
