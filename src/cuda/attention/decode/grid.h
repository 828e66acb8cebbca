// The grid of a decode launch.
#pragma once

#include <cuda_runtime_api.h>

namespace kv8::decode {

/// The grid of a launch of up to `blocks` blocks. Each of its rows has an equal part of the KV
/// heads. A page holds all heads: the blocks of a column, which read the same pages at the same
/// time, read neighbouring memory, whose addresses are translated once for all of them
/// (docs/attention-decode.md).
///
/// There are as many rows, up to 8, as divide the heads and leave no more than one block in 32
/// without a place: no block at all where `tasks`, those of all heads, are a multiple of `blocks`,
/// since tasks of equal length are then not cut.
constexpr dim3 grid_of(int tasks, int num_kv_heads, int blocks) {
  const int most_left_over = tasks % blocks == 0 ? 0 : blocks / 32;
  int rows = 8;
  while (num_kv_heads % rows != 0 || blocks % rows > most_left_over) --rows;
  return {static_cast<unsigned>(blocks / rows), static_cast<unsigned>(rows), 1};
}

}  // namespace kv8::decode
