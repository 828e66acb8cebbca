// Splits attention into tasks. Many query rows: tasks of some rows, all pages. Few rows (decode):
// all rows of a KV head, the pages in several splits whose partial results are merged.
#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"

namespace kv8::cpu {
namespace {

/// Columns (query rows times heads of the group) of a task with many rows: enough to make the
/// conversion of pages cheap.
constexpr std::int64_t kTaskColumns = 192;
/// A slice with at most this many columns is split by pages.
constexpr std::int64_t kSplitColumns = 32;
constexpr std::int64_t kMinPagesOfSplit = 4;
constexpr std::int64_t kMaxSplits = 16;

/// Partial results of one slice and KV head.
struct Merge {
  std::size_t first_task = 0, num_tasks = 0;
};

struct Work {
  std::vector<AttentionTask> tasks;
  std::vector<Merge> merges;
  std::size_t partial_floats = 0;
};

void add_split_tasks(const SequenceSlice& slice, int kv_head, std::int64_t columns, int head_dim,
                     Work& work) {
  const std::int64_t pages = pages_for_tokens(std::int64_t{slice.past_tokens} + slice.num_tokens);
  const std::int64_t splits =
      std::clamp<std::int64_t>((pages + kMinPagesOfSplit - 1) / kMinPagesOfSplit, 1, kMaxSplits);
  if (splits > 1) {
    work.merges.push_back({work.tasks.size(), static_cast<std::size_t>(splits)});
    work.partial_floats += static_cast<std::size_t>(splits * columns * partial_stride(head_dim));
  }
  for (std::int64_t split = 0; split < splits; ++split) {
    work.tasks.push_back({&slice, kv_head, 0, slice.num_tokens, pages * split / splits,
                          pages * (split + 1) / splits, nullptr});
  }
}

void add_row_tasks(const SequenceSlice& slice, int kv_head, int group, Work& work) {
  const auto tokens = static_cast<std::int32_t>(std::max<std::int64_t>(1, kTaskColumns / group));
  for (std::int32_t first = 0; first < slice.num_tokens; first += tokens) {
    const std::int32_t count = std::min(tokens, slice.num_tokens - first);
    work.tasks.push_back({&slice, kv_head, first, count, 0,
                          pages_for_tokens(std::int64_t{slice.past_tokens} + first + count),
                          nullptr});
  }
}

Work split_work(const AttentionParams& params) {
  Work work;
  const KvLayout& layout = params.cache.layout;
  const int group = params.num_heads / layout.num_kv_heads;
  for (int s = 0; s < params.num_sequences; ++s) {
    const SequenceSlice& slice = params.sequences[s];
    const std::int64_t columns = std::int64_t{slice.num_tokens} * group;
    for (int head = 0; head < layout.num_kv_heads && slice.num_tokens > 0; ++head) {
      if (columns <= kSplitColumns) {
        add_split_tasks(slice, head, columns, layout.head_dim, work);
      } else {
        add_row_tasks(slice, head, group, work);
      }
    }
  }
  return work;
}

void merge_column(const AttentionParams& params, const AttentionTask* tasks, std::size_t num_tasks,
                  std::int64_t column) {
  const int head_dim = params.cache.layout.head_dim;
  const int group = params.num_heads / params.cache.layout.num_kv_heads;
  const AttentionTask& first = tasks[0];
  const std::int64_t row = first.sequence->first_row + column / group;
  const std::int64_t head = std::int64_t{first.kv_head} * group + column % group;
  float* out = params.out + (row * params.num_heads + head) * head_dim;
  const std::int64_t offset = column * partial_stride(head_dim);

  float largest = -INFINITY;
  for (std::size_t i = 0; i < num_tasks; ++i)
    largest = std::fmax(largest, tasks[i].partial[offset]);
  std::fill_n(out, head_dim, 0.0f);
  float sum = 0.0f;
  for (std::size_t i = 0; i < num_tasks; ++i) {
    const float* partial = tasks[i].partial + offset;
    const float weight = partial[0] == largest ? 1.0f : std::exp(partial[0] - largest);
    sum += partial[1] * weight;
    for (int dim = 0; dim < head_dim; ++dim) out[dim] += partial[2 + dim] * weight;
  }
  const float factor = attention_value_scale(params.cache, first.kv_head) / sum;
  for (int dim = 0; dim < head_dim; ++dim) out[dim] *= factor;
}

}  // namespace

float attention_value_scale(const KvCacheView& cache, int kv_head) {
  if (cache.layout.elem_bytes != 1) return 1.0f;
  return 256.0f * cache.scales.v[cache.scales.count == 1 ? 0 : kv_head];
}

void attention(Workspace& workspace, const AttentionParams& params) {
  const int head_dim = params.cache.layout.head_dim;
  const std::int64_t group = params.num_heads / params.cache.layout.num_kv_heads;
  Work work = split_work(params);
  float* partial = workspace.shared_floats(work.partial_floats);
  for (const Merge& merge : work.merges) {
    for (std::size_t i = 0; i < merge.num_tasks; ++i) {
      AttentionTask& task = work.tasks[merge.first_task + i];
      task.partial = partial;
      partial += task.num_tokens * group * partial_stride(head_dim);
    }
  }
  // The last tasks of a prefill see the most pages: begin with them.
  const auto num_tasks = static_cast<std::int64_t>(work.tasks.size());
  workspace.pool().parallel_tasks(num_tasks, [&](std::int64_t index, int worker) {
    const AttentionTask& task = work.tasks[static_cast<std::size_t>(num_tasks - 1 - index)];
    const std::int64_t columns = task.num_tokens * group;
    if (task.sequence->num_tokens == 1 && attention_decode_fits(head_dim, columns)) {
      const std::int64_t pages = task.end_page - task.first_page;
      const std::size_t floats = attention_decode_floats(head_dim, columns, pages);
      return attention_decode(params, task, workspace.floats(worker, floats));
    }
    const std::size_t floats = attention_scratch_floats(head_dim, columns);
    attention_task(params, task, workspace.floats(worker, floats));
  });
  for (const Merge& merge : work.merges) {
    const AttentionTask* tasks = work.tasks.data() + merge.first_task;
    for (std::int64_t column = 0; column < tasks[0].num_tokens * group; ++column) {
      merge_column(params, tasks, merge.num_tasks, column);
    }
  }
}

}  // namespace kv8::cpu
