// The one call from host code into the file that holds the kernels.
#pragma once

#include <driver_types.h>

#include "cuda/kv_write/params.h"

namespace kv8::kv_write {

/// How a launch is cut.
struct Grid {
  /// Rows of every sequence, 0 where they differ.
  int uniform_rows;
  int multiprocessors;

  /// Many rows a sequence: a warp serves some heads of one row, and V goes by blocks of its own
  /// that transpose a page's tile. With `tile_slots` 0, few: every warp serves a row's share of Q
  /// and K or a head of V, and nothing below is looked at.
  int tile_slots;      ///< upper bound of (sequence, page) pairs with new tokens
  int tiles_per_page;  ///< filled in by start_kv_write
  int row_warps;       ///< warps a row
  int row_turns;       ///< of 512 elements of Q and K that each of them takes
  int row_blocks;
};

/// Threads of a block of a launch with many rows a sequence.
inline constexpr int kThreads = 128;

cudaError_t start_kv_write(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream);

}  // namespace kv8::kv_write
