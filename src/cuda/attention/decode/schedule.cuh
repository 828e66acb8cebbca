// Who does what: which pages of which tasks a block takes.
//
// A task is one KV head (and row tile) of one sequence; its units of work are its pages. Every warp
// derives the cut from the lengths on the device: no preparatory kernel, and balance for any
// mixture of lengths. Where no block needs to do more than in a perfectly even cut, each block
// takes a share of one task; else the units of all tasks, one after the other, are cut into one
// equal run a block. A task that several blocks share is combined by whichever of them comes last.
//
// Each row of the grid has an equal part of the KV heads and cuts its tasks like every other row:
// blocks of a column read the same pages at the same time (grid.h).
#pragma once

#include "cuda/attention/decode/kernel_params.cuh"

namespace kv8::decode {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

/// Pages of a sequence; one that is empty keeps a unit, whose block writes its zeros.
__device__ __forceinline__ uint32_t units_of(int kv_len) { return max((kv_len + 63) / 64, 1); }

/// A block's share of one task: pages first_page + i * stride.
struct Segment {
  int batch, head_tile;  ///< head_tile = kv_head * row_tiles + row_tile
  int kv_len;
  int first_page, count, stride;
  int pages;  ///< of the whole task
};

/// Blocks of the grid, row after row.
__device__ __forceinline__ uint32_t block_number() { return blockIdx.y * gridDim.x + blockIdx.x; }

/// Of the tasks of the block's row of the grid.
class Schedule {
 public:
  /// Called by whole warps.
  __device__ Schedule(const DecodeKernelParams& params, int lane)
      : params_(params), head_tiles_(params.num_kv_heads / int(gridDim.y) * params.row_tiles) {
    total_ = head_tiles_ * sum_of_items(lane, 1);
    const uint32_t largest = (total_ + gridDim.x - 1) / gridDim.x;  // share of an even cut
    blocks_ = head_tiles_ * sum_of_items(lane, largest);
    if (blocks_ <= gridDim.x) {
      if (blockIdx.x < blocks_) take_share(lane, largest);
    } else {
      blocks_ = min(gridDim.x, total_);
      if (blockIdx.x < blocks_) take_run(lane);
    }
  }

  /// Pages of all tasks of the launch.
  __device__ uint32_t total() const { return total_ * gridDim.y; }
  /// Pages that the block has still to do.
  __device__ uint32_t left() const { return left_; }
  __device__ bool done() const { return left_ == 0; }
  __device__ Segment segment() const {
    const int pages = units_of(kv_len_);
    const int head_tile = blockIdx.y * head_tiles_ + head_tile_;
    return {batch_, head_tile, kv_len_, page_, min(pages - page_, int(left_)), 1, pages};
  }
  __device__ void advance(const Segment& s) {
    left_ -= s.count;
    page_ = 0;
    if (++head_tile_ == head_tiles_ && left_ > 0) {
      head_tile_ = 0;
      batch_start_ += uint32_t(s.pages) * head_tiles_;
      kv_len_ = params_.kv_lens[++batch_];
    }
  }

  /// Blocks that share the task of `s`, the current segment, by their `block_number`.
  __device__ int first_block(const Segment& s) const {
    const int in_row = shares_ > 0 ? blockIdx.x - share_ : block_of(task_start(s));
    return blockIdx.y * gridDim.x + in_row;
  }
  __device__ int last_block(const Segment& s) const {
    const int in_row =
        shares_ > 0 ? blockIdx.x - share_ + shares_ - 1 : block_of(task_start(s) + s.pages - 1);
    return blockIdx.y * gridDim.x + in_row;
  }

 private:
  __device__ uint32_t task_start(const Segment& s) const {
    return batch_start_ + uint32_t(head_tile_) * s.pages;
  }
  __device__ int block_of(uint32_t unit) const { return ((unit + 1) * blocks_ - 1) / total_; }

  /// Items of up to `size` units that a task of `units` is cut into.
  __device__ static uint32_t items_of(uint32_t units, uint32_t size) {
    return (units + size - 1) / size;
  }
  __device__ uint32_t sum_of_items(int lane, uint32_t size) const {
    uint32_t sum = 0;
#pragma unroll 1
    for (int b = lane; b < params_.batch; b += 32) {
      sum += items_of(units_of(params_.kv_lens[b]), size);
    }
    return __reduce_add_sync(kAllLanes, sum);
  }

  /// A share of one task, of the shares of all tasks one after the other.
  __device__ void take_share(int lane, uint32_t largest) {
    const uint32_t within = blockIdx.x - find(blockIdx.x, lane, largest, shares_);
    const uint32_t units = units_of(kv_len_), size = units / shares_;
    const uint32_t longer = units - size * shares_;  // that many shares have a unit more
    head_tile_ = within / shares_;
    share_ = within - head_tile_ * shares_;
    page_ = size * share_ + min(share_, longer);
    left_ = size + (share_ < longer ? 1 : 0);
  }

  /// An equal run of the units of all tasks, one after the other.
  __device__ void take_run(int lane) {
    const uint32_t unit = total_ * blockIdx.x / blocks_;
    left_ = total_ * (blockIdx.x + 1) / blocks_ - unit;
    uint32_t units;
    batch_start_ = find(unit, lane, 1, units);
    head_tile_ = (unit - batch_start_) / units;
    page_ = unit - batch_start_ - head_tile_ * units;
  }

  /// Finds the sequence that holds item `target` when the tasks of all sequences, one after the
  /// other, are cut into items of up to `size` units; returns its first item, and how many items a
  /// task of it has.
  __device__ uint32_t find(uint32_t target, int lane, uint32_t size, uint32_t& task_items) {
    uint32_t before = 0;
#pragma unroll 1
    for (int base = 0; base < params_.batch; base += 32) {
      const bool exists = base + lane < params_.batch;
      const int len = exists ? params_.kv_lens[base + lane] : 0;
      const uint32_t own = exists ? items_of(units_of(len), size) : 0;
      uint32_t sum = own * head_tiles_;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const uint32_t other = __shfl_up_sync(kAllLanes, sum, d);
        if (lane >= d) sum += other;
      }
      const uint32_t holds = __ballot_sync(kAllLanes, target < before + sum);
      if (holds != 0) {
        const int owner = __ffs(holds) - 1;
        batch_ = base + owner;
        kv_len_ = __shfl_sync(kAllLanes, len, owner);
        task_items = __shfl_sync(kAllLanes, own, owner);
        return before + __shfl_sync(kAllLanes, sum, owner) - task_items * head_tiles_;
      }
      before += __shfl_sync(kAllLanes, sum, 31);
    }
    return before;
  }

  const DecodeKernelParams& params_;
  int head_tiles_;  ///< tasks of a sequence
  uint32_t total_, blocks_;
  // Where the block stands, and the units that it has still to do.
  int batch_ = 0, kv_len_ = 0, head_tile_ = 0, page_ = 0;
  uint32_t left_ = 0;
  uint32_t batch_start_ = 0;         ///< runs: first unit of sequence batch_
  uint32_t share_ = 0, shares_ = 0;  ///< of the block's only task; no shares: runs
};

}  // namespace kv8::decode
