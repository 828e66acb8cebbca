// RoPE, rounding, quantization and the write into the cache. Roundings are those of
// docs/numbers.md, bit for bit: no fused multiply-add, division instead of a reciprocal.
#include <cmath>

#include "cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rope_kv.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "cpu/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {

using DF = hn::ScalableTag<float>;
constexpr int kMaxHeadDim = 256;

template <class Body, class D>
HWY_INLINE void over_dims(D, int count, const Body& body) {
  const int lanes = static_cast<int>(hn::Lanes(D()));
  int i = 0;
  for (; i + lanes <= count; i += lanes) body(D(), i);
  for (; i < count; ++i) body(hn::CappedTag<float, 1>(), i);
}

void normalize(const WeightView& weight, float eps, int head_dim, float* x) {
  double sum = 0.0;
  for (int i = 0; i < head_dim; ++i) sum += static_cast<double>(x[i]) * x[i];
  const auto inverse = static_cast<float>(1.0 / std::sqrt(sum / head_dim + eps));
  float weights[kMaxHeadDim];
  weights_to_float(weight, 0, head_dim, weights);
  for (int i = 0; i < head_dim; ++i) x[i] = (x[i] * inverse) * weights[i];
}

void rotate(const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin, int half,
            float* HWY_RESTRICT x) {
  over_dims(DF(), half, [&](auto d, int i) HWY_ATTR {
    const auto low = hn::LoadU(d, x + i), high = hn::LoadU(d, x + half + i);
    const auto c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::Sub(hn::Mul(low, c), hn::Mul(high, s)), d, x + i);
    hn::StoreU(hn::Add(hn::Mul(high, c), hn::Mul(low, s)), d, x + half + i);
  });
}

/// Rounds to the model's type, in place.
void round_to_model(DType dtype, int count, float* x) {
  std::uint16_t bits[kMaxHeadDim];
  if (dtype == DType::kF16) {
    over_dims(DF(), count, [&](auto d, int i) HWY_ATTR {
      codec::store_low16(d, codec::f16_codes(d, hn::LoadU(d, x + i)), bits + i);
      hn::StoreU(codec::load_f16(d, bits + i), d, x + i);
    });
  } else {
    over_dims(DF(), count, [&](auto d, int i) HWY_ATTR {
      codec::store_low16(d, codec::bf16_codes(d, hn::LoadU(d, x + i)), bits + i);
      hn::StoreU(codec::load_bf16(d, bits + i), d, x + i);
    });
  }
}

/// `limit`: the largest code.
void quantize(const float* x, float scale, float limit, int count, std::uint8_t* codes) {
  over_dims(DF(), count, [&](auto d, int i) HWY_ATTR {
    const auto most = hn::Set(d, limit), least = hn::Set(d, -limit);
    auto quotient = hn::Div(hn::LoadU(d, x + i), hn::Set(d, scale));
    quotient = hn::IfThenElse(hn::Gt(quotient, most), most, quotient);  // NaN stays NaN
    quotient = hn::IfThenElse(hn::Lt(quotient, least), least, quotient);
    codec::store_low8(d, codec::e4m3_codes(d, quotient), codes + i);
  });
}

void dequantize(const std::uint8_t* codes, float scale, int count, float* x) {
  over_dims(DF(), count, [&](auto d, int i) HWY_ATTR {
    hn::StoreU(hn::Mul(codec::load_e4m3(d, codes + i), hn::Set(d, scale)), d, x + i);
  });
}

void to_half(const float* x, int count, std::uint16_t* codes) {
  over_dims(DF(), count, [&](auto d, int i) HWY_ATTR {
    codec::store_low16(d, codec::f16_codes(d, hn::LoadU(d, x + i)), codes + i);
  });
}

/// Stores one head of K and V of the token at `slot` of `page`; k and v are rounded already.
template <class Element>
void store_head(const KvCacheView& cache, const RowPlace& place, int head, const Element* k,
                const Element* v) {
  const KvLayout& layout = cache.layout;
  const std::int64_t page = place.page_table[place.position / kPageTokens];
  const int slot = place.position % kPageTokens;
  std::copy_n(k, layout.head_dim,
              static_cast<Element*>(cache.k) + layout.k_offset(page, head, slot, 0));
  Element* column = static_cast<Element*>(cache.v) + layout.v_offset(page, head, slot, 0);
  for (int dim = 0; dim < layout.head_dim; ++dim) column[dim * kPageTokens] = v[dim];
}

void write_kv_head(const RopeKvWriteParams& params, const RowPlace& place, int head, float* k,
                   float* v) {
  const KvCacheView& cache = params.cache;
  const int head_dim = cache.layout.head_dim;
  round_to_model(params.model_dtype, head_dim, k);
  round_to_model(params.model_dtype, head_dim, v);
  if (cache.layout.elem_bytes == 1) {
    const int scale = cache.scales.count == 1 ? 0 : head;
    std::uint8_t k_codes[kMaxHeadDim], v_codes[kMaxHeadDim];
    quantize(k, cache.scales.k[scale], cache.scales.k_limit, head_dim, k_codes);
    quantize(v, cache.scales.v[scale], kE4m3Max, head_dim, v_codes);
    store_head(cache, place, head, k_codes, v_codes);
  } else {
    std::uint16_t k_codes[kMaxHeadDim], v_codes[kMaxHeadDim];
    to_half(k, head_dim, k_codes);
    to_half(v, head_dim, v_codes);
    store_head(cache, place, head, k_codes, v_codes);
  }
}

/// Loads a head, normalises and rotates it, and shows it to the tap.
void load_rotated(const float* from, const WeightView& norm, float eps, const float* cos,
                  const float* sin, int head_dim, float* tap, float* x) {
  std::copy_n(from, head_dim, x);
  if (norm.data != nullptr) normalize(norm, eps, head_dim, x);
  rotate(cos, sin, head_dim / 2, x);
  if (tap != nullptr) std::copy_n(x, head_dim, tap);
}

void rope_kv_write_rows_target(const RopeKvWriteParams& params, const RopeAngles& angles,
                               const QkvTap* tap, const RowPlace* places, std::int64_t begin,
                               std::int64_t end) {
  const int head_dim = params.cache.layout.head_dim;
  const int kv_heads = params.cache.layout.num_kv_heads;
  const std::int64_t q_cols = std::int64_t{params.num_heads} * head_dim;
  const std::int64_t kv_cols = std::int64_t{kv_heads} * head_dim;
  const float* q_scale = params.cache.layout.elem_bytes == 1 ? params.cache.scales.q : nullptr;
  float k[kMaxHeadDim], v[kMaxHeadDim];
  std::uint8_t codes[kMaxHeadDim];
  for (std::int64_t row = begin; row < end; ++row) {
    const float* cos = angles.cos + row * (head_dim / 2);
    const float* sin = angles.sin + row * (head_dim / 2);
    const float* source = params.qkv + row * (q_cols + 2 * kv_cols);
    for (int head = 0; head < params.num_heads; ++head) {
      const std::int64_t offset = row * q_cols + std::int64_t{head} * head_dim;
      float* q = params.q_out + offset;
      load_rotated(source + std::int64_t{head} * head_dim, params.q_norm, params.norm_eps, cos, sin,
                   head_dim, tap != nullptr ? tap->q + offset : nullptr, q);
      round_to_model(params.model_dtype, head_dim, q);
      if (q_scale != nullptr) {
        quantize(q, *q_scale, params.cache.scales.q_limit, head_dim, codes);
        dequantize(codes, *q_scale, head_dim, q);
      }
    }
    for (int head = 0; head < kv_heads; ++head) {
      const std::int64_t offset = row * kv_cols + std::int64_t{head} * head_dim;
      const float* k_source = source + q_cols + std::int64_t{head} * head_dim;
      load_rotated(k_source, params.k_norm, params.norm_eps, cos, sin, head_dim,
                   tap != nullptr ? tap->k + offset : nullptr, k);
      std::copy_n(k_source + kv_cols, head_dim, v);
      if (tap != nullptr) std::copy_n(v, head_dim, tap->v + offset);
      write_kv_head(params, places[row], head, k, v);
    }
  }
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8::cpu {
namespace {

HWY_EXPORT(rope_kv_write_rows_target);

std::vector<RowPlace> row_places(const RopeKvWriteParams& params) {
  std::vector<RowPlace> places;
  for (int s = 0; s < params.num_sequences; ++s) {
    const SequenceSlice& sequence = params.sequences[s];
    places.resize(static_cast<std::size_t>(sequence.first_row + sequence.num_tokens));
    for (std::int32_t token = 0; token < sequence.num_tokens; ++token) {
      places[static_cast<std::size_t>(sequence.first_row + token)] = {sequence.past_tokens + token,
                                                                      sequence.page_table};
    }
  }
  return places;
}

}  // namespace

void rope_kv_write_rows(const RopeKvWriteParams& params, const RopeAngles& angles,
                        const QkvTap* tap, const RowPlace* places, std::int64_t begin,
                        std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(rope_kv_write_rows_target)(params, angles, tap, places, begin, end);
}

void rope_angles(Workspace& workspace, const RopeKvWriteParams& params, float* cos, float* sin) {
  const std::vector<RowPlace> places = row_places(params);
  const int half = params.cache.layout.head_dim / 2;
  workspace.pool().parallel_for(
      static_cast<std::int64_t>(places.size()), 1, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t row = begin; row < end; ++row) {
          const auto position = static_cast<float>(places[static_cast<std::size_t>(row)].position);
          for (int i = 0; i < half; ++i) {
            const double angle = position * params.inv_freq[i];  // rounded to FP32 first
            cos[row * half + i] =
                static_cast<float>(std::cos(angle)) * params.rope_attention_factor;
            sin[row * half + i] =
                static_cast<float>(std::sin(angle)) * params.rope_attention_factor;
          }
        }
      });
}

void rope_kv_write(Workspace& workspace, const RopeKvWriteParams& params, const RopeAngles& angles,
                   const QkvTap* tap) {
  const std::vector<RowPlace> places = row_places(params);
  workspace.pool().parallel_for(
      static_cast<std::int64_t>(places.size()), 1, [&](std::int64_t begin, std::int64_t end, int) {
        rope_kv_write_rows(params, angles, tap, places.data(), begin, end);
      });
}

}  // namespace kv8::cpu
#endif  // HWY_ONCE
