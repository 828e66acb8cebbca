// Q and K where a sequence has many new rows.
#pragma once

#include "cuda/kv_write/heads.cuh"
#include "cuda/ptx/async_copy.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/mma.cuh"

namespace kv8::kv_write {

/// Turns of a warp that are under way at once: 4 KiB.
inline constexpr int kDepth = 4;

template <class C>
using ManySplit = Split<C, 8>;

/// The sequence of a row; called by whole warps.
__device__ __forceinline__ int sequence_of(const KvWriteArgs& args, const Grid& grid, int row,
                                           int lane) {
  if (args.batch == 1) return 0;
  if (grid.uniform_rows > 0)
    return static_cast<unsigned>(row) / static_cast<unsigned>(grid.uniform_rows);
  int before = 0;  // sequences that end at or before the row
#pragma unroll 1
  for (int base = 0; base < args.batch; base += 32) {
    const bool ended = base + lane < args.batch && args.cu_rows[base + lane + 1] <= row;
    before += __popc(__ballot_sync(kAllLanes, ended));
  }
  return before;
}

/// What a warp has under way: every lane reads what it requested itself.
struct Ring {
  uint4 half[kDepth][2][32];
  static constexpr uint32_t kHalfBytes = sizeof(half[0][0]), kTurnBytes = sizeof(half[0]);
};

/// One warp, some heads of one row.
template <class C>
__device__ __forceinline__ void write_row(const KvWriteArgs& args, const Grid& grid, int warp,
                                          int lane, Ring& ring) {
  using S = ManySplit<C>;
  constexpr int kTurn = S::kHeads * C::kHeadDim;  // elements of a turn
  const int row = grid.row_warps == 1
                      ? warp
                      : static_cast<unsigned>(warp) / static_cast<unsigned>(grid.row_warps);
  if (row >= args.rows) return;
  const int first = (warp - row * grid.row_warps) * grid.row_turns * S::kHeads;
  const int end = min(first + grid.row_turns * S::kHeads, args.num_heads + args.num_kv_heads);
  const int j = lane % S::kLanes;
  int head = first + lane / S::kLanes;
  const uint16_t* source = source_of<C>(args, row) + head * C::kHeadDim + S::kRun * j;
  const uint32_t shared = ptx::shared_address(&ring.half[0][0][lane]);
  const auto request = [&](int ahead, uint32_t to) {
    if (head + ahead * S::kHeads < end) {
      ptx::async_copy_16(to, source + ahead * kTurn, 16);
      ptx::async_copy_16(to + Ring::kHalfBytes, source + ahead * kTurn + C::kHeadDim / 2, 16);
    }
    ptx::async_copy_commit();
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) request(i, shared + i * Ring::kTurnBytes);
  const int b = sequence_of(args, grid, row, lane);
  const int rows_end = grid.uniform_rows > 0 ? (b + 1) * grid.uniform_rows : args.cu_rows[b + 1];
  const RowPlace at = place_of_row(args, row, b, rows_end - row);
  Part<S::kRun> angles;
  load_angles<C, S>(angles_at<C, S>(args, j), at.position, angles);
  const uint32_t page = *at.table;
  Target target;
  target.until = first;
  uint32_t slot = shared;
#pragma unroll 1
  for (int left = end - first;;) {
    ptx::async_copy_wait<kDepth - 1>();
    const uint4 low = ptx::load_shared_16(slot),
                high = ptx::load_shared_16(slot + Ring::kHalfBytes);
    if (head >= target.until) target = target_of<C, S>(args, at, head, end, j);
    const auto to = [&] { return in_page(target.to, page, target.page); };
    write_head<C, S>(args, at, target, to, low, high, angles, min(head, end - 1), j);
    left -= S::kHeads;
    if (left <= 0) return;
    request(kDepth, slot);
    source += kTurn;
    head += S::kHeads;
    target.to += S::kHeads * target.step;
    slot = slot + Ring::kTurnBytes == shared + kDepth * Ring::kTurnBytes ? shared
                                                                         : slot + Ring::kTurnBytes;
  }
}

}  // namespace kv8::kv_write
