// A task whose blocks form one thread-block cluster: which pages each of them takes, and how they
// sum their parts through distributed shared memory, without workspace, fence or counter.
//
// Each block owns a slice of the columns of all rows. Whoever has merged its warps' results sends
// each owner its columns; a barrier there counts the bytes. The parts are summed in the order of
// the blocks, so that runs agree bit for bit.
#pragma once

#include "cuda/attention/decode/merge.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::sm90 {

using namespace decode;

/// The grid is [batch][head tiles][blocks of a cluster], a power of two of them. Block i of n takes
/// pages i, i + n, ... of its cluster's task: which they are depends on no length, only how many.
class ClusterSchedule {
 public:
  __device__ explicit ClusterSchedule(int kv_len)
      : kv_len_(kv_len), pages_(units_of(kv_len)), done_(int(blockIdx.x) >= pages_) {}

  __device__ static int size_log2() { return 31 - __clz(int(gridDim.x)); }
  /// Blocks that have pages: the first ones.
  __device__ int sharers() const { return min(pages_, int(gridDim.x)); }

  /// Pages of all tasks of the launch, if sequences are equally long.
  __device__ uint32_t total() const { return pages_ * gridDim.y * gridDim.z; }
  /// Whether the launch's blocks together keep memory busy with 64 KiB under way each.
  __device__ bool many_blocks() const { return gridDim.x * gridDim.y * gridDim.z >= 48; }
  __device__ bool done() const { return done_; }
  __device__ Segment segment() const {
    const int count = (pages_ - int(blockIdx.x) + int(gridDim.x) - 1) >> size_log2();
    return {int(blockIdx.z), int(blockIdx.y), kv_len_, int(blockIdx.x),
            count,           int(gridDim.x),  pages_};
  }
  __device__ void advance(const Segment&) { done_ = true; }

 private:
  int kv_len_, pages_;
  bool done_;
};

/// What the blocks of a cluster send to the owner of a slice: two columns of a row each.
template <class C>
struct ClusterParts {
  float4 part[C::kRows * C::kHeadDim / 2];  ///< [blocks][rows][pairs of columns]: sums, peak, sum
  uint64_t full;                            ///< counts their bytes
};

/// Pairs of columns in a slice, as a power of two.
template <class C>
__device__ __forceinline__ int slice_log2() {
  return 31 - __clz(C::kHeadDim / 2) - ClusterSchedule::size_log2();
}

/// Announces what this block will be sent. Thread 0's work, at any time.
template <class C>
__device__ __forceinline__ void expect_parts(ClusterParts<C>& parts,
                                             const ClusterSchedule& schedule, int rows,
                                             int thread) {
  if (thread != 0) return;
  ptx::mbarrier_arrive_expect(ptx::shared_address(&parts.full), (16 * schedule.sharers() * rows)
                                                                    << slice_log2<C>());
}

/// Merges what the warps have left and sends it to the slices' owners. Called by all computing
/// warps, of a block that has pages.
template <class C>
__device__ __forceinline__ void send_parts(ClusterParts<C>& parts, const MergeBuffer<C>& buffer,
                                           int rows, int thread) {
  const int pairs_log2 = slice_log2<C>();
  const uint32_t own = ptx::shared_address(parts.part + ((blockIdx.x * C::kRows) << pairs_log2));
  const uint32_t full = ptx::shared_address(&parts.full);
#pragma unroll 1
  for (int e = thread; e < rows * (C::kHeadDim / 2); e += 32 * C::kWarps) {
    const int row = e / (C::kHeadDim / 2), pair = e % (C::kHeadDim / 2);
    const RowPart part = merge_warps<C>(buffer, row, 2 * pair);
    const int owner = pair >> pairs_log2, at = pair - (owner << pairs_log2);
    ptx::store_remote_16(ptx::address_in_block(own + 16 * ((row << pairs_log2) + at), owner),
                         make_float4(part.out.x, part.out.y, part.peak, part.sum),
                         ptx::address_in_block(full, owner));
  }
}

/// Sums what has been sent to this block, and writes it out. It may end then: nothing more comes.
template <class C>
__device__ __forceinline__ void combine_parts(const DecodeKernelParams& params,
                                              ClusterParts<C>& parts,
                                              const ClusterSchedule& schedule, const TaskRows& task,
                                              int thread) {
  constexpr int kAtOnce = 8;  // parts
  const int pairs_log2 = slice_log2<C>();
  const int sharers = schedule.sharers(), pitch = C::kRows << pairs_log2;
  const uint32_t full = ptx::shared_address(&parts.full);
#pragma unroll 1
  for (int e = thread; e < task.rows << pairs_log2; e += 32 * C::kWarps) {
    const int row = e >> pairs_log2;
    const int column = 2 * ((int(blockIdx.x) << pairs_log2) + e - (row << pairs_log2));
    const FinishedPair<C> finish(params, task, row, column);
    ptx::mbarrier_wait_cluster(full, 0);
    RowPart sum;
#pragma unroll 1
    for (int base = 0; base < sharers; base += kAtOnce) {
      float2 weight[kAtOnce], out[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        float4 part = make_float4(0.0f, 0.0f, kNoPeak, 0.0f);
        if (base + i < sharers) part = parts.part[(base + i) * pitch + e];
        out[i] = make_float2(part.x, part.y);
        weight[i] = make_float2(part.z, part.w);
      }
      add_parts(sum, weight, out);
    }
    finish.store(sum);
  }
}

}  // namespace kv8::sm90
