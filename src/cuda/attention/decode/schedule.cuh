// Who does what: the pages of all tasks, one after the other, are cut into one equal run a block.
//
// A task is one KV head (and row tile) of one sequence; its units of work are its pages. Every warp
// derives the cut from the lengths on the device: no preparatory kernel, and perfect balance for
// any mixture of lengths. A task that several blocks share is combined by whichever of them comes
// last.
#pragma once

#include "cuda/attention/decode/kernel_params.cuh"

namespace kv8::decode {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

/// Pages of a sequence; one that is empty keeps a unit, whose block writes its zeros.
__device__ __forceinline__ int units_of(int kv_len) { return max((kv_len + 63) / 64, 1); }

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
    uint32_t pages = 0;
    for (int b = lane; b < params.batch; b += 32) pages += units_of(params.kv_lens[b]);
    total_ = __reduce_add_sync(kAllLanes, pages) * head_tiles_;
    blocks_ = min(gridDim.x, total_);
    unit_ = blockIdx.x < blocks_ ? total_ * blockIdx.x / blocks_ : total_;
    end_ = blockIdx.x < blocks_ ? total_ * (blockIdx.x + 1) / blocks_ : total_;
    find_first(lane);
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
  __device__ int first_block(const Segment& s) const { return block_of(unit_ - s.first_page); }
  __device__ int last_block(const Segment& s) const {
    return block_of(unit_ - s.first_page + s.pages - 1);
  }

 private:
  __device__ int block_of(uint32_t unit) const { return ((unit + 1) * blocks_ - 1) / total_; }

  /// The sequence that holds unit_.
  __device__ void find_first(int lane) {
    uint32_t before = 0;
    for (int base = 0; base < params_.batch; base += 32) {
      const int len = base + lane < params_.batch ? params_.kv_lens[base + lane] : 0;
      const uint32_t units = base + lane < params_.batch ? units_of(len) * head_tiles_ : 0;
      uint32_t sum = units;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const uint32_t other = __shfl_up_sync(kAllLanes, sum, d);
        if (lane >= d) sum += other;
      }
      const uint32_t holds = __ballot_sync(kAllLanes, unit_ < before + sum);
      if (holds != 0) {
        const int owner = __ffs(holds) - 1;
        batch_ = base + owner;
        kv_len_ = __shfl_sync(kAllLanes, len, owner);
        batch_start_ = before + __shfl_sync(kAllLanes, sum - units, owner);
        return;
      }
      before += __shfl_sync(kAllLanes, sum, 31);
    }
  }

  const DecodeKernelParams& params_;
  uint32_t head_tiles_, total_, blocks_, unit_, end_;
  uint32_t batch_start_ = 0;  ///< first unit of sequence batch_
  int batch_ = 0, kv_len_ = 0;
};

}  // namespace kv8::decode
