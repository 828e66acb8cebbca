// The Highway kernels behind cpu_ops.h: parts of an op, for one thread.
#pragma once

#include <cstdint>

#include "cpu/cpu_ops.h"

namespace kv8::cpu {

/// Rows [begin, end).
void rms_norm_rows(const RmsNormParams& params, std::int64_t begin, std::int64_t end);
void swiglu_rows(const SwiGluParams& params, std::int64_t begin, std::int64_t end);
/// Output features [begin, end) of all rows.
void linear_direct(const LinearParams& params, std::int64_t begin, std::int64_t end);
/// out[i] = weight[offset + i] as FP32, i < count.
void weights_to_float(const WeightView& weight, std::int64_t offset, std::int64_t count,
                      float* out);
/// Rows [begin, end) of a batch whose row r is token positions[r] (counted within the sequence) of
/// the sequence with page table tables[r].
struct RowPlace {
  std::int32_t position = 0;
  const std::int32_t* page_table = nullptr;
};
void rope_kv_write_rows(const RopeKvWriteParams& params, const RopeAngles& angles,
                        const QkvTap* tap, const RowPlace* places, std::int64_t begin,
                        std::int64_t end);

/// A piece of attention: some query tokens of one sequence and KV head (times its group of query
/// heads: the columns), over some of the pages.
struct AttentionTask {
  const SequenceSlice* sequence = nullptr;
  int kv_head = 0;
  std::int32_t first_token = 0, num_tokens = 0;  ///< of the slice
  std::int64_t first_page = 0, end_page = 0;     ///< within the sequence
  float* partial = nullptr;  ///< nullptr: write the output; else where a partial result goes
};
/// Columns of a task: num_tokens * group, column t * group + g.
/// Partial result: for each column its maximum, its sum of exponentials, and head_dim weighted
/// values (unscaled, see attention_task).
inline std::int64_t partial_stride(int head_dim) { return head_dim + 2; }
/// Floats of scratch that a task of `columns` columns needs.
std::size_t attention_scratch_floats(int head_dim, std::int64_t columns);
void attention_task(const AttentionParams& params, const AttentionTask& task, float* scratch);
/// The same for slices of a single token: whether there is a kernel for them that is faster, the
/// floats of scratch that it needs for a task of `pages` pages, and the task.
bool attention_decode_fits(int head_dim, std::int64_t columns);
std::size_t attention_decode_floats(int head_dim, std::int64_t columns, std::int64_t pages);
void attention_decode(const AttentionParams& params, const AttentionTask& task, float* scratch);
/// What a weighted value of a partial result is multiplied by to give the output.
float attention_value_scale(const KvCacheView& cache, int kv_head);

}  // namespace kv8::cpu
