// The part of PrefillArgs that the kernels of all families take as it is. Plain, so that CUDA
// sources can include it.
#pragma once

#include <cstdint>
#include <numbers>

#include "cuda/attention/params.h"

namespace kv8::prefill {

struct CommonParams {
  void* out;
  const std::int32_t* page_table;
  const std::int32_t* cu_seqlens_q;
  const std::int32_t* kv_lens;
  const float* q_scale;  ///< null: 1
  const float* k_scale;
  const float* v_scale;
  const float* v_offset;
  int scale_stride;  ///< 0: one scale, 1: one a KV head
  int num_heads;
  int num_kv_heads;
  int max_pages;
  float score_scale;  ///< softmax_scale * log2(e)
  bool out_is_bf16;
};

inline CommonParams common_params(const PrefillArgs& a) {
  return {.out = a.out,
          .page_table = a.page_table,
          .cu_seqlens_q = a.cu_seqlens_q,
          .kv_lens = a.kv_lens,
          .q_scale = a.q_scale,
          .k_scale = a.k_scale,
          .v_scale = a.v_scale,
          .v_offset = a.v_offset,
          .scale_stride = a.scale_per_head ? 1 : 0,
          .num_heads = a.num_heads,
          .num_kv_heads = a.num_kv_heads,
          .max_pages = a.max_pages,
          .score_scale = a.softmax_scale * std::numbers::log2e_v<float>,
          .out_is_bf16 = a.out_type == OutType::kBf16};
}

}  // namespace kv8::prefill
