// When a thread-block cluster takes each task of a decode launch, and how large it is.
#pragma once

#include <array>

namespace kv8::sm90 {

/// What a device offers to the kernel in clusters.
struct ClusterLimits {
  std::array<int, 4> most_clusters{};  ///< of 2, 4, 8 and 16 blocks that run at once
  int enough_blocks = 0;               ///< that together read as fast as all
};

/// Bytes a second that a multiprocessor receives at most, as measured on an H100.
inline constexpr double kBlockBytesPerSecond = 43e9;

/// Blocks that read as fast as all multiprocessors together, at a peak bandwidth of `memory` bytes
/// a second, of which about three quarters can be had. On an H100 (3.35e12) 64 blocks were as fast.
constexpr int enough_blocks(double memory) {
  return static_cast<int>(0.75 * memory / kBlockBytesPerSecond) + 1;
}

/// Blocks of each task's cluster, a power of two; 1 where the launch is better off without
/// clusters. `tasks`: of one sequence; `max_pages`: that it may have; `blocks`: of the launch
/// without clusters, one a multiprocessor.
///
/// All clusters must run at once, and only a batch of one is sure to have tasks of equal length
/// (lengths are known on the device alone). Where fewer blocks than enough read, a cluster still
/// wins while a block has at most 64 pages (measured with 16 and 32 blocks).
constexpr int cluster_size(int batch, int tasks, int max_pages, int blocks,
                           const ClusterLimits& limits) {
  if (batch != 1) return 1;
  for (int log2 = 4; log2 > 0; --log2) {
    const int size = 1 << log2;
    if (tasks > limits.most_clusters[log2 - 1] || tasks * size > blocks) continue;
    return tasks * size >= limits.enough_blocks || max_pages <= 64 * size ? size : 1;
  }
  return 1;
}

}  // namespace kv8::sm90
