// Attention of some query rows of one KV head over some pages.
//
// Everything is computed transposed: a column is one query row of one head of the group, a vector
// holds the same element of neighbouring columns. Both products then read the cache in its own
// order, one broadcast element at a time:
//
//   S[token][column] = sum_dim K[token][dim] * Q[dim][column]
//   O[dim][column]  += sum_token V[dim][token] * P[token][column]
//
// and softmax runs down the columns without any reduction across lanes. A page of K and V is
// converted to FP32 once for all columns. S keeps its rows in the order in which V stores tokens,
// so V's permutation costs nothing. The scales of K and V, and the 2^8 that FP8 codes lack
// after load_e4m3_div256, are folded into Q and into the output.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_kernel.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "cpu/fast_exp-inl.h"
#include "formats/simd_codec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kv8::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace codec = kv8::HWY_NAMESPACE;

/// A panel is kVectors vectors of columns; kRows rows of a product are computed together, so that
/// kRows * kVectors sums stay in registers and hide the latency of the multiply-adds.
template <class Tag, int kVectorsOfPanel, int kRowsTogether>
struct PanelShape {
  using D = Tag;
  static constexpr int kVectors = kVectorsOfPanel;
  static constexpr int kRows = kRowsTogether;
  static int columns() { return kVectors * static_cast<int>(hn::Lanes(D())); }
};
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX3  // 16 registers
using WidePanel = PanelShape<hn::ScalableTag<float>, 2, 4>;
#else
using WidePanel = PanelShape<hn::ScalableTag<float>, 4, 4>;
#endif
using NarrowPanel = PanelShape<hn::CappedTag<float, 8>, 1, 8>;

/// rows [row, row + kRows) of a * b added to `sums`; a [.., depth] with row stride `a_stride`,
/// b [depth][columns of the panel].
template <class Shape>
HWY_INLINE void accumulate_rows(const float* HWY_RESTRICT a, int a_stride,
                                const float* HWY_RESTRICT b, int depth,
                                hn::Vec<typename Shape::D> (&sums)[Shape::kRows][Shape::kVectors]) {
  const typename Shape::D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int columns = Shape::columns();
  for (int k = 0; k < depth; ++k) {
    hn::Vec<typename Shape::D> right[Shape::kVectors];
    for (int v = 0; v < Shape::kVectors; ++v) right[v] = hn::Load(d, b + k * columns + v * lanes);
    for (int r = 0; r < Shape::kRows; ++r) {
      const auto left = hn::Set(d, a[r * a_stride + k]);
      for (int v = 0; v < Shape::kVectors; ++v) {
        sums[r][v] = hn::MulAdd(left, right[v], sums[r][v]);
      }
    }
  }
}

/// A page of one head, in FP32, and which of its tokens exist.
struct PageTile {
  const float* k = nullptr;  ///< [kPageTokens][head_dim]
  const float* v = nullptr;  ///< [head_dim][kPageTokens], tokens in stored order
  int elem_bytes = 1;
  int head_dim = 0;
  int valid = 0;  ///< tokens 0..valid-1 exist
  bool finite_v = true;

  int position_of(int token) const {
    return (token & ~15) + v_group_position(token & 15, elem_bytes);
  }
  int token_of(int position) const {
    return (position & ~15) + v_group_token(position & 15, elem_bytes);
  }
  /// Stored positions that can hold existing tokens, in whole groups.
  int positions() const { return (valid + 15) & ~15; }
};

/// Returns whether all elements are finite.
template <class Load>
HWY_INLINE bool convert_with(int count, float* to, const Load& load) {
  const hn::ScalableTag<float> d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  auto zeros = hn::Zero(d);  // x * 0 is NaN for an infinity or a NaN, and stays one
  for (int i = 0; i < count; i += lanes) {
    const auto x = load(d, i);
    zeros = hn::MulAdd(x, hn::Zero(d), zeros);
    hn::Store(x, d, to + i);
  }
  return hn::AllTrue(d, hn::Eq(zeros, zeros));
}

bool convert_elements(const void* from, std::int64_t offset, int elem_bytes, int count, float* to) {
  if (elem_bytes == 1) {
    const auto* codes = static_cast<const std::uint8_t*>(from) + offset;
    return convert_with(count, to, [codes](auto d, int i) HWY_ATTR {
      return codec::load_e4m3_div256(d, codes + i);
    });
  }
  const auto* codes = static_cast<const std::uint16_t*>(from) + offset;
  return convert_with(count, to,
                      [codes](auto d, int i) HWY_ATTR { return codec::load_f16(d, codes + i); });
}

/// Converts a page. Slots without a token become zeros in V, whatever they held, since zero
/// probabilities do not silence a NaN; in K they become zeros too and are masked later.
void load_page(const KvCacheView& cache, std::int32_t page, int kv_head, int valid, float* k,
               float* v, PageTile& tile) {
  const KvLayout& layout = cache.layout;
  const int head_dim = layout.head_dim;
  const std::int64_t offset = layout.head_offset(page, kv_head);
  tile = {k, v, layout.elem_bytes, head_dim, valid, true};
  convert_elements(cache.k, offset, layout.elem_bytes, kPageTokens * head_dim, k);
  tile.finite_v = convert_elements(cache.v, offset, layout.elem_bytes, kPageTokens * head_dim, v);
  if (valid == kPageTokens) return;
  std::fill(k + valid * head_dim, k + kPageTokens * head_dim, 0.0f);
  for (int position = 0; position < kPageTokens; ++position) {
    if (tile.token_of(position) < valid) continue;
    for (int dim = 0; dim < head_dim; ++dim) v[dim * kPageTokens + position] = 0.0f;
  }
  // What the empty slots held must not decide in which order the others are summed.
  if (!tile.finite_v) {
    tile.finite_v =
        std::all_of(v, v + kPageTokens * head_dim, [](float x) { return std::isfinite(x); });
  }
}

/// One panel's state between pages. Pointers into the scratch, [.][columns of the panel].
struct Panel {
  float* q = nullptr;        ///< [head_dim]: scaled queries
  float* out = nullptr;      ///< [head_dim]: weighted values
  float* largest = nullptr;  ///< [1]
  float* sum = nullptr;      ///< [1]
  float* visible = nullptr;  ///< [1]: tokens of the sequence that the column sees
  float visible_min = 0.0f, visible_max = 0.0f;
};

/// scores [positions][columns]
template <class Shape>
void panel_scores(const PageTile& page, const Panel& panel, float* scores) {
  const typename Shape::D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int columns = Shape::columns();
  for (int token = 0; token < page.positions(); token += Shape::kRows) {
    hn::Vec<typename Shape::D> sums[Shape::kRows][Shape::kVectors];
    for (auto& row : sums) {
      for (auto& sum : row) sum = hn::Zero(d);
    }
    accumulate_rows<Shape>(page.k + token * page.head_dim, page.head_dim, panel.q, page.head_dim,
                           sums);
    for (int r = 0; r < Shape::kRows; ++r) {
      float* to = scores + page.position_of(token + r) * columns;
      for (int v = 0; v < Shape::kVectors; ++v) hn::Store(sums[r][v], d, to + v * lanes);
    }
  }
}

/// Sets the scores of tokens that a column does not see to minus infinity; `first_token` is the
/// page's first token within the sequence.
template <class Shape>
void panel_mask(const PageTile& page, const Panel& panel, std::int64_t first_token, float* scores) {
  const typename Shape::D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int columns = Shape::columns();
  const auto hidden = hn::Set(d, -INFINITY);
  for (int position = 0; position < page.positions(); ++position) {
    const auto token = hn::Set(d, static_cast<float>(first_token + page.token_of(position)));
    for (int v = 0; v < Shape::kVectors; ++v) {
      float* at = scores + position * columns + v * lanes;
      const auto sees = hn::Lt(token, hn::Load(d, panel.visible + v * lanes));
      hn::Store(hn::IfThenElse(sees, hn::Load(d, at), hidden), d, at);
    }
  }
}

/// Turns scores into exponentials relative to the running maximum, updates maximum and sum, and
/// leaves in `rescale` what earlier results shrink by.
template <class Shape>
void panel_softmax(int positions, const Panel& panel, float* scores, float* rescale) {
  const typename Shape::D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int columns = Shape::columns();
  for (int v = 0; v < Shape::kVectors; ++v) {
    float* at = scores + v * lanes;
    const auto before = hn::Load(d, panel.largest + v * lanes);
    auto largest0 = before, largest1 = before;
    for (int i = 0; i < positions; i += 2) {
      largest0 = hn::Max(largest0, hn::Load(d, at + i * columns));
      largest1 = hn::Max(largest1, hn::Load(d, at + (i + 1) * columns));
    }
    const auto largest = hn::Max(largest0, largest1);
    // A column that has seen nothing yet has -inf - -inf here.
    const auto seen_nothing = hn::Eq(largest, hn::Set(d, -INFINITY));
    const auto base = hn::IfThenZeroElse(seen_nothing, largest);
    const auto shrink = exp_nonpositive(d, hn::Sub(before, base));
    auto sum = hn::Mul(hn::Load(d, panel.sum + v * lanes), shrink);
    for (int i = 0; i < positions; ++i) {
      const auto p = exp_nonpositive(d, hn::Sub(hn::Load(d, at + i * columns), base));
      sum = hn::Add(sum, p);
      hn::Store(p, d, at + i * columns);
    }
    hn::Store(largest, d, panel.largest + v * lanes);
    hn::Store(sum, d, panel.sum + v * lanes);
    hn::Store(shrink, d, rescale + v * lanes);
  }
}

template <class Shape>
void panel_values(const PageTile& page, const Panel& panel, const float* probabilities,
                  const float* rescale) {
  const typename Shape::D d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int columns = Shape::columns();
  for (int dim = 0; dim < page.head_dim; dim += Shape::kRows) {
    hn::Vec<typename Shape::D> sums[Shape::kRows][Shape::kVectors];
    float* out = panel.out + dim * columns;
    for (int r = 0; r < Shape::kRows; ++r) {
      for (int v = 0; v < Shape::kVectors; ++v) {
        sums[r][v] =
            hn::Mul(hn::Load(d, out + r * columns + v * lanes), hn::Load(d, rescale + v * lanes));
      }
    }
    accumulate_rows<Shape>(page.v + dim * kPageTokens, kPageTokens, probabilities, page.positions(),
                           sums);
    for (int r = 0; r < Shape::kRows; ++r) {
      for (int v = 0; v < Shape::kVectors; ++v) {
        hn::Store(sums[r][v], d, out + r * columns + v * lanes);
      }
    }
  }
}

/// panel_values for the rare page with an infinity or a NaN among its values: a probability of zero
/// does not silence it, so a column leaves out the tokens that it does not see.
void panel_values_unfinite(const PageTile& page, const Panel& panel, int columns,
                           std::int64_t first_token, const float* probabilities,
                           const float* rescale) {
  for (int dim = 0; dim < page.head_dim; ++dim) {
    for (int column = 0; column < columns; ++column) {
      float& out = panel.out[dim * columns + column];
      out *= rescale[column];
      for (int position = 0; position < page.positions(); ++position) {
        const auto token = static_cast<float>(first_token + page.token_of(position));
        if (token >= panel.visible[column]) continue;
        out += page.v[dim * kPageTokens + position] * probabilities[position * columns + column];
      }
    }
  }
}

/// Columns of a task and where their rows lie.
struct TaskColumns {
  TaskColumns(const AttentionParams& attention_params, const AttentionTask& attention_task)
      : params(attention_params),
        task(attention_task),
        group(params.num_heads / params.cache.layout.num_kv_heads),
        count(std::int64_t{task.num_tokens} * group) {}
  /// Offset of a column's row of its head in q and out.
  std::int64_t offset(std::int64_t column) const {
    const std::int64_t row = task.sequence->first_row + task.first_token + column / group;
    const std::int64_t head = std::int64_t{task.kv_head} * group + column % group;
    return (row * params.num_heads + head) * params.cache.layout.head_dim;
  }
  /// Tokens that a column sees.
  std::int64_t visible(std::int64_t column) const {
    return std::int64_t{task.sequence->past_tokens} + task.first_token + column / group + 1;
  }
  const AttentionParams& params;
  const AttentionTask& task;
  int group;
  std::int64_t count;
};

/// Packs the queries of `panel_columns` columns from `first` and resets the panel. Columns beyond
/// the last are copies of nothing: zero queries that see what the last column sees.
void start_panel(const TaskColumns& columns, std::int64_t first, int panel_columns, Panel& panel) {
  const KvCacheView& cache = columns.params.cache;
  const int head_dim = cache.layout.head_dim;
  float scale = columns.params.softmax_scale;
  if (cache.layout.elem_bytes == 1) {
    scale *= 256.0f * cache.scales.k[cache.scales.count == 1 ? 0 : columns.task.kv_head];
  }
  for (int c = 0; c < panel_columns; ++c) {
    const std::int64_t column = std::min(first + c, columns.count - 1);
    const float* q = columns.params.q + columns.offset(column);
    const float column_scale = first + c < columns.count ? scale : 0.0f;
    for (int dim = 0; dim < head_dim; ++dim) {
      panel.q[dim * panel_columns + c] = column_scale != 0.0f ? q[dim] * column_scale : 0.0f;
    }
    panel.visible[c] = static_cast<float>(columns.visible(column));
  }
  panel.visible_min = panel.visible[0];
  panel.visible_max = panel.visible[panel_columns - 1];
  std::fill_n(panel.out, head_dim * panel_columns, 0.0f);
  std::fill_n(panel.largest, panel_columns, -INFINITY);
  std::fill_n(panel.sum, panel_columns, 0.0f);
}

void finish_panel(const TaskColumns& columns, std::int64_t first, int panel_columns,
                  const Panel& panel) {
  const int head_dim = columns.params.cache.layout.head_dim;
  const float scale = attention_value_scale(columns.params.cache, columns.task.kv_head);
  for (int c = 0; c < panel_columns && first + c < columns.count; ++c) {
    if (columns.task.partial != nullptr) {
      float* to = columns.task.partial + (first + c) * partial_stride(head_dim);
      to[0] = panel.largest[c];
      to[1] = panel.sum[c];
      for (int dim = 0; dim < head_dim; ++dim) to[2 + dim] = panel.out[dim * panel_columns + c];
    } else {
      float* to = columns.params.out + columns.offset(first + c);
      const float factor = scale / panel.sum[c];
      for (int dim = 0; dim < head_dim; ++dim)
        to[dim] = panel.out[dim * panel_columns + c] * factor;
    }
  }
}

/// Floats of one panel's q, out, largest, sum and visible.
constexpr std::int64_t panel_floats(int head_dim, int columns) {
  return std::int64_t{columns} * (2 * head_dim + 3);
}

template <class Shape>
void attention_panels(const AttentionParams& params, const AttentionTask& task, float* scratch) {
  const int head_dim = params.cache.layout.head_dim;
  const TaskColumns columns(params, task);
  const int panel_columns = Shape::columns();
  const std::int64_t num_panels = (columns.count + panel_columns - 1) / panel_columns;

  float* k = scratch;
  float* v = k + kPageTokens * head_dim;
  float* scores = v + kPageTokens * head_dim;
  float* rescale = scores + kPageTokens * panel_columns;
  float* panels = rescale + panel_columns;
  const auto panel_at = [&](std::int64_t index) {
    Panel panel;
    panel.q = panels + index * panel_floats(head_dim, panel_columns);
    panel.out = panel.q + head_dim * panel_columns;
    panel.largest = panel.out + head_dim * panel_columns;
    panel.sum = panel.largest + panel_columns;
    panel.visible = panel.sum + panel_columns;
    panel.visible_min = panel.visible[0];
    panel.visible_max = panel.visible[panel_columns - 1];
    return panel;
  };
  for (std::int64_t i = 0; i < num_panels; ++i) {
    Panel panel = panel_at(i);
    start_panel(columns, i * panel_columns, panel_columns, panel);
  }
  const std::int64_t tokens = columns.visible(columns.count - 1);
  for (std::int64_t page = task.first_page; page < task.end_page; ++page) {
    const std::int64_t first_token = page * kPageTokens;
    const int valid = static_cast<int>(std::min<std::int64_t>(kPageTokens, tokens - first_token));
    PageTile tile;
    load_page(params.cache, task.sequence->page_table[page], task.kv_head, valid, k, v, tile);
    for (std::int64_t i = 0; i < num_panels; ++i) {
      const Panel panel = panel_at(i);
      if (panel.visible_max <= static_cast<float>(first_token)) continue;
      panel_scores<Shape>(tile, panel, scores);
      const bool masked = panel.visible_min < static_cast<float>(first_token + tile.positions());
      if (masked) panel_mask<Shape>(tile, panel, first_token, scores);
      panel_softmax<Shape>(tile.positions(), panel, scores, rescale);
      if (masked && !tile.finite_v) {
        panel_values_unfinite(tile, panel, panel_columns, first_token, scores, rescale);
      } else {
        panel_values<Shape>(tile, panel, scores, rescale);
      }
    }
  }
  for (std::int64_t i = 0; i < num_panels; ++i) {
    finish_panel(columns, i * panel_columns, panel_columns, panel_at(i));
  }
}

/// Narrow panels where wide ones would be mostly empty.
bool use_narrow(std::int64_t columns) { return 2 * columns <= WidePanel::columns(); }

void attention_task_target(const AttentionParams& params, const AttentionTask& task,
                           float* scratch) {
  if (use_narrow(TaskColumns(params, task).count)) {
    attention_panels<NarrowPanel>(params, task, scratch);
  } else {
    attention_panels<WidePanel>(params, task, scratch);
  }
}

std::size_t attention_scratch_floats_target(int head_dim, std::int64_t columns) {
  const int panel_columns = use_narrow(columns) ? NarrowPanel::columns() : WidePanel::columns();
  const std::int64_t panels = (columns + panel_columns - 1) / panel_columns;
  return static_cast<std::size_t>(2 * kPageTokens * head_dim + (kPageTokens + 1) * panel_columns +
                                  panels * panel_floats(head_dim, panel_columns));
}

}  // namespace kv8::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8::cpu {

HWY_EXPORT(attention_task_target);
HWY_EXPORT(attention_scratch_floats_target);

void attention_task(const AttentionParams& params, const AttentionTask& task, float* scratch) {
  HWY_DYNAMIC_DISPATCH(attention_task_target)(params, task, scratch);
}

std::size_t attention_scratch_floats(int head_dim, std::int64_t columns) {
  return HWY_DYNAMIC_DISPATCH(attention_scratch_floats_target)(head_dim, columns);
}

}  // namespace kv8::cpu
#endif  // HWY_ONCE
