#include "ops/reference.h"

#include <algorithm>
#include <cmath>

#include "formats/float_formats.h"

namespace kv8::reference {
namespace {

float weight_at(const WeightView& weight, std::int64_t index) {
  switch (weight.dtype) {
    case DType::kF32:
      return static_cast<const float*>(weight.data)[index];
    case DType::kF16:
      return f16_to_float(static_cast<const std::uint16_t*>(weight.data)[index]);
    case DType::kBF16:
      return bf16_to_float(static_cast<const std::uint16_t*>(weight.data)[index]);
    default:
      KV8_CHECK(false, "weights of type {}", dtype_name(weight.dtype));
  }
  return 0.0f;
}

float round_to(DType dtype, float value) {
  KV8_CHECK(dtype == DType::kF16 || dtype == DType::kBF16, "model type {}", dtype_name(dtype));
  return dtype == DType::kF16 ? f16_to_float(f16_from_float(value))
                              : bf16_to_float(bf16_from_float(value));
}

float head_scale(const float* scales, int count, int kv_head) {
  return scales[count == 1 ? 0 : kv_head];
}

/// One head of one token: optional RMS norm, then rotation. The order of FP32 roundings is the one
/// of docs/numbers.md.
void norm_and_rotate(const RopeKvWriteParams& params, const WeightView& norm, std::int32_t position,
                     float* x) {
  const int head_dim = params.cache.layout.head_dim;
  if (norm.data != nullptr) {
    double sum = 0.0;
    for (int i = 0; i < head_dim; ++i) sum += static_cast<double>(x[i]) * x[i];
    const auto inverse = static_cast<float>(1.0 / std::sqrt(sum / head_dim + params.norm_eps));
    for (int i = 0; i < head_dim; ++i) x[i] = (x[i] * inverse) * weight_at(norm, i);
  }
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * params.inv_freq[i];
    const float cosine =
        static_cast<float>(std::cos(static_cast<double>(angle))) * params.rope_attention_factor;
    const float sine =
        static_cast<float>(std::sin(static_cast<double>(angle))) * params.rope_attention_factor;
    const float low = x[i], high = x[i + half];
    const float low_cos = low * cosine, high_sin = high * sine;
    const float high_cos = high * cosine, low_sin = low * sine;
    x[i] = low_cos - high_sin;
    x[i + half] = high_cos + low_sin;
  }
}

/// Quotients beyond `limit`, the largest code, saturate there; NaN stays NaN.
std::uint8_t code_of(float value, float scale, float limit) {
  const float quotient = value / scale;
  return e4m3_from_float(quotient > limit ? limit : quotient < -limit ? -limit : quotient);
}

void store(void* memory, int elem_bytes, std::int64_t offset, float value, float scale,
           float limit) {
  if (elem_bytes == 1) {
    static_cast<std::uint8_t*>(memory)[offset] = code_of(value, scale, limit);
  } else {
    static_cast<std::uint16_t*>(memory)[offset] = f16_from_float(value);
  }
}

float load(const void* memory, int elem_bytes, std::int64_t offset, float scale) {
  if (elem_bytes == 1)
    return e4m3_to_float(static_cast<const std::uint8_t*>(memory)[offset]) * scale;
  return f16_to_float(static_cast<const std::uint16_t*>(memory)[offset]);
}

std::int64_t total_rows(const SequenceSlice* sequences, int num_sequences) {
  std::int64_t rows = 0;
  for (int s = 0; s < num_sequences; ++s) {
    rows = std::max(rows, sequences[s].first_row + sequences[s].num_tokens);
  }
  return rows;
}

void write_token(const RopeKvWriteParams& params, const float* k, const float* v, std::int32_t page,
                 int slot) {
  const KvCacheView& cache = params.cache;
  const KvLayout& layout = cache.layout;
  const bool fp8 = layout.elem_bytes == 1;
  for (int head = 0; head < layout.num_kv_heads; ++head) {
    const float k_scale = fp8 ? head_scale(cache.scales.k, cache.scales.count, head) : 1.0f;
    const float v_scale = fp8 ? head_scale(cache.scales.v, cache.scales.count, head) : 1.0f;
    for (int dim = 0; dim < layout.head_dim; ++dim) {
      const int column = head * layout.head_dim + dim;
      store(cache.k, layout.elem_bytes, layout.k_offset(page, head, slot, dim),
            round_to(params.model_dtype, k[column]), k_scale, cache.scales.k_limit);
      store(cache.v, layout.elem_bytes, layout.v_offset(page, head, slot, dim),
            round_to(params.model_dtype, v[column]), v_scale, kE4m3Max);
    }
  }
}

/// One row and head: scores, softmax and weighted sum over tokens 0..position.
void attend(const AttentionParams& params, const SequenceSlice& sequence, std::int32_t position,
            int kv_head, const float* q, float* out) {
  const int head_dim = params.cache.layout.head_dim;
  std::vector<double> weights(static_cast<std::size_t>(position) + 1);
  double largest = -INFINITY;
  for (int token = 0; token <= position; ++token) {
    double score = 0.0;
    for (int dim = 0; dim < head_dim; ++dim) {
      score += static_cast<double>(q[dim]) *
               cached_k(params.cache, sequence.page_table, kv_head, token, dim);
    }
    weights[static_cast<std::size_t>(token)] = score * params.softmax_scale;
    largest = std::max(largest, weights[static_cast<std::size_t>(token)]);
  }
  double sum = 0.0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (int dim = 0; dim < head_dim; ++dim) {
    double value = 0.0;
    for (int token = 0; token <= position; ++token) {
      value += weights[static_cast<std::size_t>(token)] *
               cached_v(params.cache, sequence.page_table, kv_head, token, dim);
    }
    out[dim] = static_cast<float>(value / sum);
  }
}

}  // namespace

void rms_norm(const RmsNormParams& params) {
  for (std::int64_t row = 0; row < params.rows; ++row) {
    const float* x = params.x + row * params.cols;
    double sum = 0.0;
    for (std::int64_t col = 0; col < params.cols; ++col)
      sum += static_cast<double>(x[col]) * x[col];
    const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(params.cols) + params.eps);
    for (std::int64_t col = 0; col < params.cols; ++col) {
      params.out[row * params.cols + col] =
          static_cast<float>(x[col] * inverse * weight_at(params.weight, col));
    }
  }
}

void linear(const LinearParams& params) {
  for (std::int64_t row = 0; row < params.rows; ++row) {
    for (std::int64_t out = 0; out < params.out_features; ++out) {
      double sum = params.bias.data != nullptr ? weight_at(params.bias, out) : 0.0;
      const std::int64_t index = row * params.out_features + out;
      if (params.residual != nullptr) sum += params.residual[index];
      for (std::int64_t in = 0; in < params.in; ++in) {
        sum += static_cast<double>(params.x[row * params.in + in]) *
               weight_at(params.weight, out * params.in + in);
      }
      params.out[index] = static_cast<float>(sum);
    }
  }
}

void swiglu(const SwiGluParams& params) {
  for (std::int64_t row = 0; row < params.rows; ++row) {
    const float* gate = params.gate_up + row * 2 * params.cols;
    const float* up = gate + params.cols;
    for (std::int64_t col = 0; col < params.cols; ++col) {
      const double x = gate[col];
      params.out[row * params.cols + col] = static_cast<float>(x / (1.0 + std::exp(-x)) * up[col]);
    }
  }
}

RotatedQkv rotate_qkv(const RopeKvWriteParams& params) {
  const KvLayout& layout = params.cache.layout;
  const int q_cols = params.num_heads * layout.head_dim;
  const int kv_cols = layout.num_kv_heads * layout.head_dim;
  const auto rows = static_cast<std::size_t>(total_rows(params.sequences, params.num_sequences));
  RotatedQkv result;
  result.q.resize(rows * static_cast<std::size_t>(q_cols));
  result.k.resize(rows * static_cast<std::size_t>(kv_cols));
  result.v.resize(rows * static_cast<std::size_t>(kv_cols));
  for (int s = 0; s < params.num_sequences; ++s) {
    const SequenceSlice& sequence = params.sequences[s];
    for (std::int32_t token = 0; token < sequence.num_tokens; ++token) {
      const std::int64_t row = sequence.first_row + token;
      const std::int32_t position = sequence.past_tokens + token;
      const float* source = params.qkv + row * (q_cols + 2 * kv_cols);
      float* q = result.q.data() + row * q_cols;
      float* k = result.k.data() + row * kv_cols;
      std::copy_n(source, q_cols, q);
      std::copy_n(source + q_cols, kv_cols, k);
      std::copy_n(source + q_cols + kv_cols, kv_cols, result.v.data() + row * kv_cols);
      for (int head = 0; head < params.num_heads; ++head) {
        norm_and_rotate(params, params.q_norm, position, q + head * layout.head_dim);
      }
      for (int head = 0; head < layout.num_kv_heads; ++head) {
        norm_and_rotate(params, params.k_norm, position, k + head * layout.head_dim);
      }
    }
  }
  return result;
}

void rope_kv_write(const RopeKvWriteParams& params) {
  const KvLayout& layout = params.cache.layout;
  const RotatedQkv rotated = rotate_qkv(params);
  const int kv_cols = layout.num_kv_heads * layout.head_dim;
  for (int s = 0; s < params.num_sequences; ++s) {
    const SequenceSlice& sequence = params.sequences[s];
    for (std::int32_t token = 0; token < sequence.num_tokens; ++token) {
      const std::int64_t row = sequence.first_row + token;
      const std::int32_t position = sequence.past_tokens + token;
      write_token(params, rotated.k.data() + row * kv_cols, rotated.v.data() + row * kv_cols,
                  sequence.page_table[position / kPageTokens], position % kPageTokens);
    }
  }
  const float* q_scale = layout.elem_bytes == 1 ? params.cache.scales.q : nullptr;
  for (std::size_t i = 0; i < rotated.q.size(); ++i) {
    const float rounded = round_to(params.model_dtype, rotated.q[i]);
    params.q_out[i] =
        q_scale == nullptr
            ? rounded
            : e4m3_to_float(code_of(rounded, *q_scale, params.cache.scales.q_limit)) * *q_scale;
  }
}

float cached_k(const KvCacheView& cache, const std::int32_t* page_table, int kv_head, int token,
               int dim) {
  const KvLayout& layout = cache.layout;
  const float scale =
      layout.elem_bytes == 1 ? head_scale(cache.scales.k, cache.scales.count, kv_head) : 1.0f;
  const std::int32_t page = page_table[token / kPageTokens];
  return load(cache.k, layout.elem_bytes, layout.k_offset(page, kv_head, token % kPageTokens, dim),
              scale);
}

float cached_v(const KvCacheView& cache, const std::int32_t* page_table, int kv_head, int token,
               int dim) {
  const KvLayout& layout = cache.layout;
  const float scale =
      layout.elem_bytes == 1 ? head_scale(cache.scales.v, cache.scales.count, kv_head) : 1.0f;
  const std::int32_t page = page_table[token / kPageTokens];
  return load(cache.v, layout.elem_bytes, layout.v_offset(page, kv_head, token % kPageTokens, dim),
              scale);
}

void attention(const AttentionParams& params) {
  const KvLayout& layout = params.cache.layout;
  const int group = params.num_heads / layout.num_kv_heads;
  for (int s = 0; s < params.num_sequences; ++s) {
    const SequenceSlice& sequence = params.sequences[s];
    for (std::int32_t token = 0; token < sequence.num_tokens; ++token) {
      for (int head = 0; head < params.num_heads; ++head) {
        const std::int64_t offset =
            ((sequence.first_row + token) * params.num_heads + head) * layout.head_dim;
        attend(params, sequence, sequence.past_tokens + token, head / group, params.q + offset,
               params.out + offset);
      }
    }
  }
}

}  // namespace kv8::reference
