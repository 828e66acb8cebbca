#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "cuda/testing/problem_kernels.h"
#include "ops/kv_layout.h"

namespace kv8::cuda_testing {
namespace {

__device__ std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}
__device__ float normal(std::uint64_t index, std::uint32_t stream) {
  const std::uint64_t bits =
      mix((index + 1) * 0x9E3779B97F4A7C15ull + stream * 0xD1B54A32D192ED03ull);
  const float u = (static_cast<float>(bits >> 40) + 1.0f) * (1.0f / 16777216.0f);
  const float angle = static_cast<float>(bits & 0xffffff) * (1.0f / 16777216.0f);
  return sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * angle);
}

/// Real values before quantization. `token` counts within the sequence, `head` is a KV head.
__device__ float key_value(const View& w, int b, int token, int head, int dim) {
  const std::uint64_t at =
      ((std::uint64_t(b) * 1048576 + token) * w.num_kv_heads + head) * w.head_dim + dim;
  const float x = normal(at, 3 * w.seed + 1);
  switch (w.pattern) {
    case Pattern::kSink:
      return token == 0 ? 3.0f : x;
    case Pattern::kOneHot:
      return 3.0f * x;
    case Pattern::kEqualKeys:
      return normal(dim, 77);
    case Pattern::kOffsetKeys:
      return x + 4.0f;
    case Pattern::kZeros:
      return 0.0f;
    case Pattern::kSaturated:
      return x > 0 ? 5.6f : -5.6f;
    case Pattern::kFarBelow:
      return token % 97 == 0 ? 1.0f + 0.05f * x : -5.0f;
    default:
      return x;
  }
}
__device__ float value_value(const View& w, int b, int token, int head, int dim) {
  const std::uint64_t at =
      ((std::uint64_t(b) * 1048576 + token) * w.num_kv_heads + head) * w.head_dim + dim;
  const float x = normal(at, 3 * w.seed + 2);
  switch (w.pattern) {
    case Pattern::kFlat:
      return fabsf(x);
    case Pattern::kSink:
      return token == 0 ? 0.01f * x : x;
    case Pattern::kZeros:
      return 0.0f;
    case Pattern::kSaturated:
      return x > 0 ? 5.6f : -5.6f;
    default:
      return x;
  }
}
/// `token` is the row's own position in the sequence, `head` a query head of KV head `kv_head`.
__device__ float query_value(const View& w, int b, int token, int head, int kv_head, int dim) {
  const std::uint64_t at =
      ((std::uint64_t(b) * 1048576 + token) * w.num_heads + head) * w.head_dim + dim;
  const float x = normal(at, 3 * w.seed + 3);
  switch (w.pattern) {
    case Pattern::kFlat:
      return 0.25f * x;
    case Pattern::kSink:
      return 0.5f * x + 0.5f;
    case Pattern::kOneHot:
      return key_value(w, b, token < 0 ? 0 : token, kv_head, dim);
    case Pattern::kZeros:
      return 0.0f;
    case Pattern::kSaturated:
      return x > 0 ? 5.6f : -5.6f;
    case Pattern::kFarBelow:
      return 4.0f + 0.25f * x;
    default:
      return x;
  }
}

__device__ void store_element(void* base, int kv_type, std::int64_t at, float x, float scale) {
  if (kv_type == 0) {
    static_cast<std::uint8_t*>(base)[at] =
        __nv_cvt_float_to_fp8(x / scale, __NV_SATFINITE, __NV_E4M3);
  } else {
    static_cast<__half*>(base)[at] = __float2half_rn(fminf(fmaxf(x, -8.0f), 8.0f));
  }
}
__device__ double load_element(const void* base, int kv_type, std::int64_t at, double scale) {
  if (kv_type != 0) return __half2float(static_cast<const __half*>(base)[at]);
  const __half_raw raw =
      __nv_cvt_fp8_to_halfraw(static_cast<const std::uint8_t*>(base)[at], __NV_E4M3);
  return double{__half2float(__half(raw))} * scale;
}

__device__ KvLayout layout_of(const View& w) {
  KvLayout layout;
  layout.num_kv_heads = w.num_kv_heads;
  layout.head_dim = w.head_dim;
  layout.elem_bytes = w.kv_type == 0 ? 1 : 2;
  return layout;
}

/// Whether row `row` of sequence b sees key `token`.
__device__ bool sees(const View& w, int b, int row, int token) {
  const int first = w.cu_q[b], q_len = w.cu_q[b + 1] - first;
  const int own = token - (w.kv_lens[b] - q_len);
  if (own < 0 || w.tree_mask == nullptr) return own <= row;
  return (w.tree_mask[(std::int64_t{first} + row) * 4 + own / 32] >> own % 32 & 1) != 0;
}

__device__ bool nobody_sees(const View& w, int b, int token) {
  if (w.tree_mask == nullptr) return false;
  for (int row = 0; row < w.cu_q[b + 1] - w.cu_q[b]; ++row) {
    if (sees(w, b, row, token)) return false;
  }
  return true;
}

__global__ void fill_cache(View w) {
  const int b = blockIdx.y, kv_len = w.kv_lens[b];
  const KvLayout layout = layout_of(w);
  const std::int64_t count = std::int64_t{kv_len} * w.num_kv_heads * w.head_dim;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const int dim = i % w.head_dim, head = i / w.head_dim % w.num_kv_heads;
    const int token = static_cast<int>(i / w.head_dim / w.num_kv_heads);
    if (nobody_sees(w, b, token)) continue;
    const int page = w.page_table[std::int64_t{b} * w.max_pages + token / kPageTokens];
    store_element(w.k, w.kv_type, layout.k_offset(page, head, token % kPageTokens, dim),
                  key_value(w, b, token, head, dim), w.k_scale[head * w.scale_stride]);
    store_element(w.v, w.kv_type, layout.v_offset(page, head, token % kPageTokens, dim),
                  value_value(w, b, token, head, dim), w.v_scale[head * w.scale_stride]);
  }
}

__global__ void fill_queries(View w) {
  const int b = blockIdx.y, first = w.cu_q[b], q_len = w.cu_q[b + 1] - first;
  const std::int64_t count = std::int64_t{q_len} * w.num_heads * w.head_dim;
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const int dim = i % w.head_dim, head = i / w.head_dim % w.num_heads;
    const int row = static_cast<int>(i / w.head_dim / w.num_heads);
    const int kv_head = head / (w.num_heads / w.num_kv_heads);
    const float x = query_value(w, b, row + w.kv_lens[b] - q_len, head, kv_head, dim);
    store_element(w.q, w.q_type, std::int64_t{first} * w.num_heads * w.head_dim + i, x,
                  w.q_scale[kv_head * w.scale_stride]);
  }
}

/// One block a sample: attention in double precision over the dequantized inputs.
__global__ void reference_rows(View w, const Sample* samples, double* out) {
  constexpr int kThreads = 256;
  __shared__ double query[128], partial[kThreads], accumulated[2][128];
  const Sample sample = samples[blockIdx.x];
  const int b = sample.batch, first = w.cu_q[b];
  const int kv_head = sample.head / (w.num_heads / w.num_kv_heads);
  const int keys = w.kv_lens[b];
  const KvLayout layout = layout_of(w);
  const int thread = threadIdx.x;
  const double k_scale = w.k_scale[kv_head * w.scale_stride];
  const double v_scale = w.v_scale[kv_head * w.scale_stride];
  if (thread < w.head_dim) {
    const std::int64_t at =
        (std::int64_t{first + sample.row} * w.num_heads + sample.head) * w.head_dim + thread;
    query[thread] = load_element(w.q, w.q_type, at, w.q_scale[kv_head * w.scale_stride]);
  }
  __syncthreads();
  const auto page_of = [&](int token) {
    return w.page_table[std::int64_t{b} * w.max_pages + token / kPageTokens];
  };
  const auto logit = [&](int token) {
    const std::int64_t at = layout.k_offset(page_of(token), kv_head, token % kPageTokens, 0);
    double sum = 0;
    for (int d = 0; d < w.head_dim; ++d)
      sum += query[d] * load_element(w.k, w.kv_type, at + d, k_scale);
    return sum * w.softmax_scale;
  };
  const auto reduce = [&](double x, auto combine) {
    partial[thread] = x;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (thread < half) partial[thread] = combine(partial[thread], partial[thread + half]);
      __syncthreads();
    }
    const double result = partial[0];
    __syncthreads();
    return result;
  };
  double peak = -INFINITY;
  for (int t = thread; t < keys; t += kThreads) {
    if (sees(w, b, sample.row, t)) peak = fmax(peak, logit(t));
  }
  peak = reduce(peak, [](double x, double y) { return fmax(x, y); });
  // Two groups of 128 threads share the keys of each step; each thread owns one channel.
  const int half = thread / 128, dim = thread % 128;
  double sum = 0, value = 0;
  for (int base = 0; base < keys; base += kThreads) {
    const int t = base + thread;
    const bool seen = t < keys && sees(w, b, sample.row, t);
    const double p = seen ? exp(logit(t) - peak) : 0.0;
    sum += p;
    partial[thread] = seen ? p : -1.0;
    __syncthreads();
    for (int i = 0; i < 128; ++i) {
      const int token = base + half * 128 + i;
      if (partial[half * 128 + i] >= 0 && dim < w.head_dim) {
        const std::int64_t at = layout.v_offset(page_of(token), kv_head, token % kPageTokens, dim);
        value += partial[half * 128 + i] * load_element(w.v, w.kv_type, at, v_scale);
      }
    }
    __syncthreads();
  }
  sum = reduce(sum, [](double x, double y) { return x + y; });
  if (dim < w.head_dim) accumulated[half][dim] = value;
  __syncthreads();
  if (thread < w.head_dim) {
    double result = 0.0;
    if (sum > 0) {
      result = (accumulated[0][thread] + accumulated[1][thread]) / sum;
      if (w.v_offset != nullptr) result += w.v_offset[kv_head * w.head_dim + thread];
    }
    out[std::int64_t{blockIdx.x} * w.head_dim + thread] = result;
  }
}

}  // namespace

void launch_fill(const View& view) {
  fill_cache<<<dim3(256, view.batch), 256>>>(view);
  fill_queries<<<dim3(256, view.batch), 256>>>(view);
}

void launch_reference(const View& view, const Sample* samples, int count, double* out) {
  reference_rows<<<count, 256>>>(view, samples, out);
}

}  // namespace kv8::cuda_testing
