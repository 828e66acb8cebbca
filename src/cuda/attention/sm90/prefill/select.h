// Which prefill kernel serves a problem: pure host functions, tested without a GPU.
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "cuda/attention/sm90/prefill/kernel_shape.h"

namespace kv8::sm90 {

/// A kernel's time, fitted to measurements of 512 to 4,096 tokens on an H100, in microseconds: a
/// launch, a query tile, and a tile of keys visited.
struct KernelCost {
  float launch_us = 0.0f;
  float tile_us = 0.0f;
  float step_us = 0.0f;
};

struct SelectableKernel {
  const char* name;
  KernelShape shape;
  KernelCost cost;
  KernelEntry (*entry)();
};

/// All shipped kernels.
std::span<const SelectableKernel> selectable_kernels();

/// What the choice depends on.
struct SelectInput {
  KvType kv_type = KvType::kE4m3;
  ScoreType score_type = ScoreType::kF32;
  int head_dim = 0;
  int batch = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int max_q_len = 0;
  int max_kv_len = 0;
  int num_sms = 0;
};

/// Query heads of a KV head that a tile may take together, out of `heads_per_kv`: all of them where
/// their tokens still fill 64 rows well (7 heads: 63 rows), else a divisor.
int packable_heads(int heads_per_kv);

/// Query heads that share a tile: `packable_heads` where a few new tokens leave one head's tiles
/// half empty, and where FP8 has many tiles a block, so that sharing keys saves power and costs
/// no balance; else one.
int packed_heads(const KernelShape& shape, const SelectInput& input);

/// Expected time of a kernel on a problem, in microseconds, all sequences taken as the longest.
double estimate_us(const SelectableKernel& kernel, const SelectInput& input);

/// The kernel with the least expected time; an error that lists what exists where none fits.
Result<const SelectableKernel*> select_kernel(const SelectInput& input);

/// "e4m3 d128, f16 scores, 3x64 rows, 1x192 keys", for logs and tables.
std::string to_string(const KernelShape& shape);

}  // namespace kv8::sm90
