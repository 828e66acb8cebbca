// When a block of a Hopper decode kernel has its full ring of pages under way, and when 64 KiB.
#pragma once

#include "cuda/attention/sm90/decode/cluster.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sm90 {

/// In clusters: all blocks begin at once, where more than 64 KiB each only get into each other's
/// way (docs).
template <class C>
class ClusterPace {
 public:
  __device__ ClusterPace(const DecodeKernelParams&, const ClusterSchedule& schedule)
      : paced_(C::kPaced && schedule.many_blocks()) {}
  __device__ bool next(int, int) const { return paced_; }
  __device__ void end(int) const {}

 private:
  bool paced_;
};

/// Elsewhere: while all blocks begin, and while the block is ahead of the others. While memory is
/// busy some multiprocessors receive up to an eighth more than others, and what they request ahead
/// of time makes everybody's requests wait longer (docs). So the blocks count the pages that they
/// have requested in a word of the workspace, and whoever is ahead of the mean has less under way.
/// Only the time that a launch takes hangs on it: a block never waits for another one.
///
/// Launches of less than kLeastBytes a block have no time to drift apart and do not count.
template <class C>
class SharedPace {
 public:
  /// `schedule` as it begins.
  __device__ SharedPace(const DecodeKernelParams& params, const Schedule& schedule)
      : word_(params.progress), total_(schedule.total()), own_(schedule.left()) {}

  /// Whether the next `count` pages are paced. Called by a whole warp before it requests them.
  __device__ bool next(int count, int lane) {
    // Not before the ring has been full, and not sooner than the last sum can be there.
    if (requested_ >= C::kStages && requested_ - counted_ >= C::kPacedPages) {
      paced_ = false;
      if (counts()) {
        const uint64_t all = __shfl_sync(kAllLanes, all_, 0);
        paced_ =
            uint64_t{counted_} * total_ > (all + blocks() * kLeadBytes / C::kStageBytes) * own_;
        if (lane == 0) all_ = add();
        counted_ = requested_;
      }
    }
    requested_ += count;
    return paced_;
  }

  /// Leaves the word at zero for the next launch. Called when all pages have been requested.
  __device__ void end(int lane) const {
    if (lane == 0 && requested_ > 0 && counts() && add() == total_) *word_ = 0;
  }

 private:
  static_assert(C::kPaced);
  static constexpr uint32_t kLeadBytes = 16 << 10;    ///< that a block may be ahead of the mean
  static constexpr uint32_t kLeastBytes = 256 << 10;  ///< of a block, in launches that count

  __device__ static uint32_t blocks() { return gridDim.x * gridDim.y; }
  __device__ bool counts() const { return total_ >= kLeastBytes / C::kStageBytes * blocks(); }
  __device__ uint32_t add() const {
    const uint32_t pages = requested_ - counted_;
    ptx::wait_for_predecessors();  // one of which may still be counting
    return atomicAdd(word_, pages) + pages;
  }

  uint32_t* word_;
  uint32_t total_, own_;  ///< pages: of all blocks, of this one
  bool paced_ = true;
  uint32_t requested_ = 0, counted_ = 0;
  uint32_t all_ = UINT32_MAX;  ///< counted by all blocks, as lane 0 last saw it
};

}  // namespace kv8::sm90
