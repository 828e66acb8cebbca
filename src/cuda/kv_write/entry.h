// The one call from host code into the file that holds the kernels.
#pragma once

#include <driver_types.h>

#include "cuda/kv_write/params.h"

namespace kv8::kv_write {

/// How a launch is cut. A warp serves some heads of one row; V goes either with them
/// (few rows a sequence) or by blocks of its own that transpose a page's tile.
struct Grid {
  int row_warps;  ///< warps a row
  int row_turns;  ///< of 512 elements of Q and K (and V) that each of them takes
  int row_blocks;
  int tile_slots;    ///< upper bound of (sequence, page) pairs with new tokens; 0: V goes with rows
  int uniform_rows;  ///< rows of every sequence, 0 where they differ
};

cudaError_t start_kv_write(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream);

}  // namespace kv8::kv_write
