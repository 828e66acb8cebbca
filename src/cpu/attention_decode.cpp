// Attention of one query token of one KV head over some pages: a decode step.
//
// With a handful of columns (the query heads of a group) a vector of columns would be mostly empty,
// so here vectors run along the cache's own rows: along dim in K's product, along the stored token
// positions in V's. Pages are read once, in their stored format; sums are kept as whole vectors
// and folded at the end. Scores follow V's order of tokens. Scales are folded in as in
// attention_kernel.cpp.
#include <algorithm>
#include <cmath>
#include <utility>

#include "cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_decode.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "cpu/fast_exp-inl.h"
#include "cpu/prefetch-inl.h"
#include "formats/simd_codec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace codec = kv8::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_HAVE_SCALABLE
// Without vectors of a known size of at least four lanes attention_kernel.cpp does it all.
bool attention_decode_fits_target(int, std::int64_t) { return false; }
std::size_t attention_decode_floats_target(int, std::int64_t, std::int64_t) { return 0; }
void attention_decode_target(const AttentionParams&, const AttentionTask&, float*) {}
#else

using DF = hn::CappedTag<float, 16>;  // a group of 16 tokens holds whole vectors
constexpr int kLanes = static_cast<int>(hn::MaxLanes(DF()));
constexpr int kGroupTokens = 16;
constexpr int kMaxColumns = 16;
/// Columns that a page is read for at a time.
constexpr int kColumnsTogether = 4;
/// Lanes that a vector of sums is folded to before it is stored.
constexpr int kFolded = 4;
using DFolded = hn::CappedTag<float, kFolded>;

struct E4m3Elements {
  using Element = std::uint8_t;
  static HWY_INLINE hn::Vec<DF> load(const Element* from) {
    return codec::load_e4m3_div256(DF(), from);
  }
};
struct F16Elements {
  using Element = std::uint16_t;
  static HWY_INLINE hn::Vec<DF> load(const Element* from) { return codec::load_f16(DF(), from); }
};

/// The sum of a vector's blocks of four lanes.
template <class D>
HWY_INLINE hn::Vec<DFolded> fold(D /*d*/, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) <= kFolded) {
    return v;
  } else {
    const hn::Half<D> half;
    return fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

/// Lane i: the sum of folded[kFolded * i ..].
HWY_INLINE hn::Vec<DF> unfold(const float* HWY_RESTRICT folded) {
  hn::Vec<DF> a, b, c, d;
  hn::LoadInterleaved4(DF(), folded, a, b, c, d);
  return hn::Add(hn::Add(a, b), hn::Add(c, d));
}

/// What a task works on: its sizes, and where in the scratch its arrays lie.
struct DecodeWork {
  DecodeWork(const AttentionParams& attention_params, const AttentionTask& attention_task,
             float* scratch)
      : params(attention_params),
        task(attention_task),
        head_dim(params.cache.layout.head_dim),
        elem_bytes(params.cache.layout.elem_bytes),
        columns(params.num_heads / params.cache.layout.num_kv_heads),
        tokens(std::min(std::int64_t{task.sequence->past_tokens} + 1, task.end_page * kPageTokens) -
               task.first_page * kPageTokens),
        positions((tokens + kGroupTokens - 1) / kGroupTokens * kGroupTokens),
        sums(scratch),
        q(sums + std::int64_t{columns} * head_dim * kLanes),
        scores(q + std::int64_t{columns} * head_dim) {}

  /// Offset of the block of the task's head that holds position `at`.
  std::int64_t block(std::int64_t at) const {
    const std::int64_t page = task.first_page + at / kPageTokens;
    return params.cache.layout.head_offset(task.sequence->page_table[page], task.kv_head);
  }
  bool holds_token(std::int64_t position) const {
    const int in_group = static_cast<int>(position % kGroupTokens);
    return position - in_group + v_group_token(in_group, elem_bytes) < tokens;
  }
  /// Offset of a query head's row in q and out.
  std::int64_t row_offset(int column) const {
    const std::int64_t head = std::int64_t{task.kv_head} * columns + column;
    return (task.sequence->first_row * params.num_heads + head) * head_dim;
  }

  const AttentionParams& params;
  const AttentionTask& task;
  const int head_dim, elem_bytes, columns;
  const std::int64_t tokens;     ///< in the task's pages
  const std::int64_t positions;  ///< tokens, rounded up to whole groups
  float* const sums;             ///< [head_dim][columns][kLanes]
  float* const q;                ///< [columns][head_dim], scaled
  float* const scores;           ///< [columns][positions]
};

void scale_queries(const DecodeWork& work) {
  const KvCacheView& cache = work.params.cache;
  float scale = work.params.softmax_scale;
  if (work.elem_bytes == 1) {
    scale *= 256.0f * cache.scales.k[cache.scales.count == 1 ? 0 : work.task.kv_head];
  }
  const float* from = work.params.q + work.row_offset(0);
  for (int i = 0; i < work.columns * work.head_dim; ++i) work.q[i] = from[i] * scale;
}

/// Scores of kColumns columns from `first` with the 16 tokens at position `at`. Meanwhile fetches
/// as much of V's block, and of K what comes next.
template <class Elements, int kColumns>
HWY_INLINE void group_scores(const DecodeWork& work, int first, std::int64_t at) {
  using Element = typename Elements::Element;
  const DF df;
  const int head_dim = work.head_dim;
  const auto* keys = static_cast<const Element*>(work.params.cache.k);
  const auto* values = static_cast<const Element*>(work.params.cache.v);
  const std::int64_t in_block = at % kPageTokens * head_dim;
  const std::int64_t next = std::min(at + kGroupTokens, work.positions - kGroupTokens);
  const Element* k = keys + work.block(at) + in_block;
  const Element* v = values + work.block(at) + in_block;
  const Element* next_k = keys + work.block(next) + next % kPageTokens * head_dim;
  const float* HWY_RESTRICT q = work.q + std::int64_t{first} * head_dim;
  const auto row_bytes = static_cast<std::int64_t>(head_dim * sizeof(Element));
  HWY_ALIGN float folded[kColumns][kGroupTokens * kFolded];
  for (int i = 0; i < kGroupTokens; ++i) {
    if (first == 0) {
      prefetch_bytes(next_k + i * head_dim, row_bytes);
      prefetch_bytes(v + i * head_dim, row_bytes);
    }
    const Element* row = k + v_group_token(i, work.elem_bytes) * head_dim;
    hn::Vec<DF> sums[kColumns];
    for (auto& sum : sums) sum = hn::Zero(df);
    for (int dim = 0; dim < head_dim; dim += kLanes) {
      const auto key = Elements::load(row + dim);
      for (int c = 0; c < kColumns; ++c) {
        sums[c] = hn::MulAdd(key, hn::LoadU(df, q + c * head_dim + dim), sums[c]);
      }
    }
    for (int c = 0; c < kColumns; ++c) {
      hn::StoreU(fold(df, sums[c]), DFolded(), folded[c] + i * kFolded);
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    float* to = work.scores + (first + c) * work.positions + at;
    for (int i = 0; i < kGroupTokens; i += kLanes) {
      hn::StoreU(unfold(folded[c] + i * kFolded), df, to + i);
    }
  }
}

/// Turns a column's scores into exponentials; slots without a token get zero. Returns the largest
/// score and the sum of the exponentials.
std::pair<float, float> column_softmax(const DecodeWork& work, int column) {
  const DF df;
  float* scores = work.scores + column * work.positions;
  for (std::int64_t i = work.positions - kGroupTokens; i < work.positions; ++i) {
    if (!work.holds_token(i)) scores[i] = -INFINITY;
  }
  auto most = hn::Set(df, -INFINITY);
  for (std::int64_t i = 0; i < work.positions; i += kLanes) {
    most = hn::Max(most, hn::LoadU(df, scores + i));
  }
  const float largest = hn::GetLane(hn::MaxOfLanes(df, most));
  const auto base = hn::Set(df, largest == -INFINITY ? 0.0f : largest);
  auto sum = hn::Zero(df);
  for (std::int64_t i = 0; i < work.positions; i += kLanes) {
    const auto p = exp_nonpositive(df, hn::Sub(hn::LoadU(df, scores + i), base));
    sum = hn::Add(sum, p);
    hn::StoreU(p, df, scores + i);
  }
  return {largest, hn::GetLane(hn::SumOfLanes(df, sum))};
}

/// Adds the values of the page at position `at` to the sums of kColumns columns from `first`.
/// kPartial: slots without a token may hold anything, and count as zeros.
template <class Elements, int kColumns, bool kPartial>
void page_values(const DecodeWork& work, int first, std::int64_t at) {
  const DF df;
  const auto* HWY_RESTRICT v =
      static_cast<const typename Elements::Element*>(work.params.cache.v) + work.block(at);
  const float* HWY_RESTRICT p = work.scores + first * work.positions + at;
  const int count = static_cast<int>(std::min<std::int64_t>(work.positions - at, kPageTokens));
  HWY_ALIGN float holds_token[kPageTokens];
  for (int i = 0; kPartial && i < count; ++i) {
    holds_token[i] = work.holds_token(at + i) ? 1.0f : 0.0f;
  }
  for (int dim = 0; dim < work.head_dim; ++dim) {
    float* HWY_RESTRICT to = work.sums + (std::int64_t{dim} * work.columns + first) * kLanes;
    hn::Vec<DF> sums[kColumns];
    for (int c = 0; c < kColumns; ++c) sums[c] = hn::LoadU(df, to + c * kLanes);
    for (int i = 0; i < count; i += kLanes) {
      auto value = Elements::load(v + dim * kPageTokens + i);
      if constexpr (kPartial) {
        const auto holds = hn::Gt(hn::Load(df, holds_token + i), hn::Zero(df));
        value = hn::IfThenElseZero(holds, value);
      }
      for (int c = 0; c < kColumns; ++c) {
        sums[c] = hn::MulAdd(value, hn::LoadU(df, p + c * work.positions + i), sums[c]);
      }
    }
    for (int c = 0; c < kColumns; ++c) hn::StoreU(sums[c], df, to + c * kLanes);
  }
}

/// out[dim] = factor * the sum of the lanes of a column's sums.
void write_column(const DecodeWork& work, int column, float factor, float* out) {
  const DF df;
  HWY_ALIGN float folded[kLanes * kFolded];
  for (int dim = 0; dim < work.head_dim; dim += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float* sums = work.sums + (std::int64_t{dim + i} * work.columns + column) * kLanes;
      hn::StoreU(fold(df, hn::LoadU(df, sums)), DFolded(), folded + i * kFolded);
    }
    hn::StoreU(hn::Mul(unfold(folded), hn::Set(df, factor)), df, out + dim);
  }
}

template <class Elements, int kColumns>
void decode_columns(const DecodeWork& work, int first) {
  for (std::int64_t at = 0; at < work.positions; at += kGroupTokens) {
    group_scores<Elements, kColumns>(work, first, at);
  }
  std::pair<float, float> softmax[kColumns];
  for (int c = 0; c < kColumns; ++c) softmax[c] = column_softmax(work, first + c);
  for (std::int64_t at = 0; at < work.positions; at += kPageTokens) {
    if (at + kPageTokens <= work.tokens) {
      page_values<Elements, kColumns, false>(work, first, at);
    } else {
      page_values<Elements, kColumns, true>(work, first, at);
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    const auto [largest, sum] = softmax[c];
    if (work.task.partial != nullptr) {
      float* to = work.task.partial + (first + c) * partial_stride(work.head_dim);
      to[0] = largest;
      to[1] = sum;
      write_column(work, first + c, 1.0f, to + 2);
    } else {
      const float scale = attention_value_scale(work.params.cache, work.task.kv_head);
      write_column(work, first + c, scale / sum, work.params.out + work.row_offset(first + c));
    }
  }
}

template <class Elements>
void decode_task(const DecodeWork& work) {
  for (int first = 0; first < work.columns; first += kColumnsTogether) {
    switch (std::min(kColumnsTogether, work.columns - first)) {
      case 1:
        decode_columns<Elements, 1>(work, first);
        break;
      case 2:
        decode_columns<Elements, 2>(work, first);
        break;
      case 3:
        decode_columns<Elements, 3>(work, first);
        break;
      default:
        decode_columns<Elements, kColumnsTogether>(work, first);
    }
  }
}

bool attention_decode_fits_target(int head_dim, std::int64_t columns) {
  return head_dim % kLanes == 0 && columns <= kMaxColumns;
}

std::size_t attention_decode_floats_target(int head_dim, std::int64_t columns, std::int64_t pages) {
  return static_cast<std::size_t>(columns * (head_dim * (kLanes + 1) + pages * kPageTokens));
}

void attention_decode_target(const AttentionParams& params, const AttentionTask& task,
                             float* scratch) {
  const DecodeWork work(params, task, scratch);
  std::fill_n(work.sums, std::int64_t{work.columns} * work.head_dim * kLanes, 0.0f);
  scale_queries(work);
  if (work.elem_bytes == 1) return decode_task<E4m3Elements>(work);
  return decode_task<F16Elements>(work);
}

#endif  // HWY_TARGET == HWY_SCALAR || HWY_HAVE_SCALABLE

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8::cpu {

HWY_EXPORT(attention_decode_fits_target);
HWY_EXPORT(attention_decode_floats_target);
HWY_EXPORT(attention_decode_target);

bool attention_decode_fits(int head_dim, std::int64_t columns) {
  return HWY_DYNAMIC_DISPATCH(attention_decode_fits_target)(head_dim, columns);
}

std::size_t attention_decode_floats(int head_dim, std::int64_t columns, std::int64_t pages) {
  return HWY_DYNAMIC_DISPATCH(attention_decode_floats_target)(head_dim, columns, pages);
}

void attention_decode(const AttentionParams& params, const AttentionTask& task, float* scratch) {
  HWY_DYNAMIC_DISPATCH(attention_decode_target)(params, task, scratch);
}

}  // namespace kv8::cpu
#endif  // HWY_ONCE
