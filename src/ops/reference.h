// Every op in plain loops with FP64 sums and the scalar codecs: slow, readable, and what the
// kernels of all backends are tested against. Parameters are those of ops/params.h.
#pragma once

#include <vector>

#include "ops/params.h"

namespace kv8::reference {

void rms_norm(const RmsNormParams& params);
void linear(const LinearParams& params);
void swiglu(const SwiGluParams& params);

/// Q and K after normalisation and RoPE and V as projected, before any rounding to a narrower
/// type: q [rows, num_heads * head_dim], k and v [rows, num_kv_heads * head_dim].
struct RotatedQkv {
  std::vector<float> q, k, v;
};
RotatedQkv rotate_qkv(const RopeKvWriteParams& params);
void rope_kv_write(const RopeKvWriteParams& params);

void attention(const AttentionParams& params);

/// A cached element, dequantized. `token` counts from the start of the sequence.
float cached_k(const KvCacheView& cache, const std::int32_t* page_table, int kv_head, int token,
               int dim);
float cached_v(const KvCacheView& cache, const std::int32_t* page_table, int kv_head, int token,
               int dim);

}  // namespace kv8::reference
