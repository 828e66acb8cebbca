// When a thread-block cluster takes each task of a decode launch, and how large it is.
#pragma once

#include <array>

namespace kv8::sm90 {

inline constexpr int kMaxClusterBlocks = 16;  // what Hopper allows

/// Clusters of 2, 4, 8 and 16 blocks that a device can run at once.
using MostClusters = std::array<int, 4>;

/// Blocks of each task's cluster, a power of two; 1 where tasks are better cut into shares of equal
/// length. `tasks`: of one sequence; `max_pages`: that it may have; `blocks`: of the launch without
/// clusters, one a multiprocessor.
///
/// All clusters must run at once, and only a batch of one is sure to have tasks of equal length
/// (lengths are known on the device alone). Half of the multiprocessors read as fast as all of
/// them, and with fewer a cluster still wins while a block has at most 64 pages: measured.
constexpr int cluster_size(int batch, int tasks, int max_pages, int blocks,
                           const MostClusters& most) {
  if (batch != 1) return 1;
  for (int log2 = 4; log2 > 0; --log2) {
    const int size = 1 << log2;
    if (tasks > most[log2 - 1] || tasks * size > blocks) continue;
    return 5 * tasks * size >= 2 * blocks || max_pages <= 64 * size ? size : 1;
  }
  return 1;
}

}  // namespace kv8::sm90
