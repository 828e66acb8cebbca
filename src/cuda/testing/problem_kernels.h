// Kernels behind PrefillProblem: filling inputs and the double-precision reference.
#pragma once

#include <cstdint>

namespace kv8::cuda_testing {

/// What the inputs are like. Random normals alone flatter a kernel.
enum class Pattern {
  kNormal,      ///< Q, K, V standard normal
  kFlat,        ///< weak logits, positive V: accumulators that truncate show here
  kSink,        ///< the first token attracts most of the attention, its V is small
  kOneHot,      ///< query i points at key i: logits in the hundreds, one key takes all
  kEqualKeys,   ///< all keys the same: uniform attention
  kOffsetKeys,  ///< a large constant in every key channel
  kZeros,       ///< all zero
  kSaturated,   ///< every element at plus or minus the largest code
  kFarBelow,    ///< all but every 97th key score hundreds below the rest
};
/// What a filling or reference kernel must know.
struct View {
  Pattern pattern;
  int kv_type, q_type;  // 0: E4M3, 1: FP16
  int batch, num_heads, num_kv_heads, head_dim, max_pages;
  const int* cu_q;
  const int* kv_lens;
  const int* page_table;
  void* q;
  void* k;
  void* v;
  const float* q_scale;
  const float* k_scale;
  const float* v_scale;
  int scale_stride;
  const float* v_offset;
  float softmax_scale;
  std::uint32_t seed;
  const std::uint32_t* tree_mask;  ///< [rows of cu_q][4] as DecodeArgs has them; null: causal
};

/// One row of one head.
struct Sample {
  int batch, row, head;
};

/// Fills K and V pages (but for tokens of a tree that none of its tokens sees) and Q from
/// `view.pattern`, on the default stream.
void launch_fill(const View& view);

/// Attention in double precision over the dequantized inputs: out[count][head_dim].
void launch_reference(const View& view, const Sample* samples, int count, double* out);

}  // namespace kv8::cuda_testing
