// Who does what: which pages of which tasks a block takes.
//
// A task is one KV head (and row tile) of one sequence; its units of work are its pages. Every warp
// derives the cut from the lengths on the device: no preparatory kernel, and balance for any
// mixture of lengths. Where no block needs to do more than in a perfectly even cut, each block
// takes a share of one task; else the units of all tasks, one after the other, are cut into one
// equal run a block. A task that several blocks share is combined by whichever of them comes last.
#pragma once

#include "cuda/attention/decode/kernel_params.cuh"

namespace kv8::decode {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

/// Pages of a sequence; one that is empty keeps a unit, whose block writes its zeros.
__device__ __forceinline__ uint32_t units_of(int kv_len) { return max((kv_len + 63) / 64, 1); }

/// A block's share of one task.
struct Segment {
  int batch, head_tile;  ///< head_tile = kv_head * row_tiles + row_tile
  int kv_len;
  int first_page, end_page;
  int pages;  ///< of the whole task
};

class Schedule {
 public:
  /// Called by whole warps.
  __device__ Schedule(const DecodeKernelParams& params, int lane)
      : params_(params), head_tiles_(params.num_kv_heads * params.row_tiles) {
    total_ = head_tiles_ * sum(lane, [](uint32_t units) { return units; });
    const uint32_t largest = (total_ + gridDim.x - 1) / gridDim.x;  // share of an even cut
    const auto shares = [largest](uint32_t units) { return (units + largest - 1) / largest; };
    blocks_ = head_tiles_ * sum(lane, shares);
    if (blocks_ <= gridDim.x) {
      take_share(lane, shares);
    } else {
      blocks_ = min(gridDim.x, total_);
      take_run(lane);
    }
  }

  __device__ bool done() const { return unit_ >= end_; }
  __device__ Segment segment() const {
    const int pages = units_of(kv_len_);
    const int head_tile = (unit_ - batch_start_) / pages;
    const int first = unit_ - batch_start_ - head_tile * pages;
    return {batch_, head_tile, kv_len_, first, min(pages, first + int(end_ - unit_)), pages};
  }
  __device__ void advance(const Segment& s) {
    unit_ += s.end_page - s.first_page;
    const uint32_t batch_units = uint32_t(s.pages) * head_tiles_;
    if (unit_ == batch_start_ + batch_units && unit_ < end_) {
      batch_start_ += batch_units;
      kv_len_ = params_.kv_lens[++batch_];
    }
  }

  /// Blocks that share the task of `s`.
  __device__ int first_block(const Segment& s) const {
    return shares_ > 0 ? blockIdx.x - share_ : block_of(unit_ - s.first_page);
  }
  __device__ int last_block(const Segment& s) const {
    return shares_ > 0 ? blockIdx.x - share_ + shares_ - 1
                       : block_of(unit_ - s.first_page + s.pages - 1);
  }

 private:
  __device__ int block_of(uint32_t unit) const { return ((unit + 1) * blocks_ - 1) / total_; }

  /// Sum of weigh(units) over the batch.
  template <class Weigh>
  __device__ uint32_t sum(int lane, Weigh weigh) const {
    uint32_t sum = 0;
    for (int b = lane; b < params_.batch; b += 32) sum += weigh(units_of(params_.kv_lens[b]));
    return __reduce_add_sync(kAllLanes, sum);
  }

  /// A share of one task, of the shares of all tasks one after the other.
  template <class Shares>
  __device__ void take_share(int lane, Shares shares) {
    unit_ = end_ = 0;
    if (blockIdx.x >= blocks_) return;
    const uint32_t within = blockIdx.x - find(blockIdx.x, lane, shares);
    const uint32_t units = units_of(kv_len_);
    shares_ = shares(units);
    const uint32_t head_tile = within / shares_;
    share_ = within - head_tile * shares_;
    unit_ = batch_start_ + head_tile * units + units * share_ / shares_;
    end_ = batch_start_ + head_tile * units + units * (share_ + 1) / shares_;
  }

  /// An equal run of the units of all tasks, one after the other.
  __device__ void take_run(int lane) {
    unit_ = blockIdx.x < blocks_ ? total_ * blockIdx.x / blocks_ : total_;
    end_ = blockIdx.x < blocks_ ? total_ * (blockIdx.x + 1) / blocks_ : total_;
    if (unit_ < end_) find(unit_, lane, [](uint32_t units) { return units; });
  }

  /// Finds the sequence that holds item `target` of head_tiles * weigh(units) items of each
  /// sequence, one after the other; returns its first item.
  template <class Weigh>
  __device__ uint32_t find(uint32_t target, int lane, Weigh weigh) {
    uint32_t before = 0, units_before = 0;
    for (int base = 0; base < params_.batch; base += 32) {
      const bool exists = base + lane < params_.batch;
      const int len = exists ? params_.kv_lens[base + lane] : 0;
      const uint32_t units = exists ? units_of(len) * head_tiles_ : 0;
      const uint32_t items = exists ? weigh(units_of(len)) * head_tiles_ : 0;
      const uint32_t sum = scan(items, lane), units_sum = scan(units, lane);
      const uint32_t holds = __ballot_sync(kAllLanes, target < before + sum);
      if (holds != 0) {
        const int owner = __ffs(holds) - 1;
        batch_ = base + owner;
        kv_len_ = __shfl_sync(kAllLanes, len, owner);
        batch_start_ = units_before + __shfl_sync(kAllLanes, units_sum - units, owner);
        return before + __shfl_sync(kAllLanes, sum - items, owner);
      }
      before += __shfl_sync(kAllLanes, sum, 31);
      units_before += __shfl_sync(kAllLanes, units_sum, 31);
    }
    return before;
  }

  /// Sum of the values of this lane and those below.
  __device__ static uint32_t scan(uint32_t value, int lane) {
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, value, d);
      if (lane >= d) value += other;
    }
    return value;
  }

  const DecodeKernelParams& params_;
  uint32_t head_tiles_, total_, blocks_, unit_, end_;
  uint32_t batch_start_ = 0;  ///< first unit of sequence batch_
  int batch_ = 0, kv_len_ = 0;
  uint32_t share_ = 0, shares_ = 0;  ///< of the block's only task; no shares: runs
};

}  // namespace kv8::decode
