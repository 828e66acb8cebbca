#include "cuda/attention/prefill/check.h"

#include <algorithm>
#include <cmath>

namespace kv8::prefill {

Status check(const PrefillArgs& a) {
  if (a.batch < 1 || a.num_heads < 1 || a.num_kv_heads < 1 || a.total_q_tokens < 0 ||
      a.max_q_len < 0 || a.max_kv_len < 0 || a.num_pages < 1 || a.max_pages < 1) {
    return usage_error(
        "prefill attention: batch {}, heads {}, KV heads {}, pages {}, page table width {} must "
        "be positive and token counts not negative",
        a.batch, a.num_heads, a.num_kv_heads, a.num_pages, a.max_pages);
  }
  if (a.num_heads % a.num_kv_heads != 0) {
    return usage_error("prefill attention: {} query heads do not divide into {} KV heads",
                       a.num_heads, a.num_kv_heads);
  }
  const std::int64_t rows = std::int64_t{a.num_pages} * a.num_kv_heads * std::max(64, a.head_dim);
  if (rows > INT32_MAX) {
    return capacity_error("prefill attention: {} pages of {} KV heads exceed 2^31 rows",
                          a.num_pages, a.num_kv_heads);
  }
  const bool fp8_kv = a.kv_type == KvType::kE4m3, fp8_q = a.q_type == KvType::kE4m3;
  if (fp8_q && !fp8_kv) return unsupported("prefill attention: FP8 queries over an FP16 cache");
  if ((a.q_scale != nullptr) != fp8_q || (a.k_scale != nullptr) != fp8_kv ||
      (a.v_scale != nullptr) != fp8_kv) {
    return usage_error(
        "prefill attention: scales go with FP8: K's and V's with an FP8 cache, Q's with FP8 "
        "queries");
  }
  if (!(a.softmax_scale > 0.0f) || !std::isfinite(a.softmax_scale)) {
    return usage_error("prefill attention: softmax_scale {} must be positive", a.softmax_scale);
  }
  return {};
}

}  // namespace kv8::prefill
