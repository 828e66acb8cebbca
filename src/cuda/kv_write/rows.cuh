// Q and K where a sequence has many new rows.
#pragma once

#include "cuda/kv_write/heads.cuh"
#include "cuda/ptx/async_copy.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace kv8::kv_write {

/// Turns of a warp that are under way at once: 4 KiB.
inline constexpr int kDepth = 4;

template <class C>
using ManySplit = Split<C, 8>;

/// The sequence of a row; called by whole warps.
__device__ __forceinline__ int sequence_of(const KvWriteArgs& args, const Grid& grid, int row,
                                           int lane) {
  if (args.batch == 1) return 0;
  if (grid.uniform_rows > 0) return row / grid.uniform_rows;
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
};

/// One warp, some heads of one row.
template <class C>
__device__ __forceinline__ void write_row(const KvWriteArgs& args, const Grid& grid, int warp,
                                          int lane, Ring& ring) {
  using S = ManySplit<C>;
  const int row = grid.row_warps == 1 ? warp : warp / grid.row_warps;
  if (row >= args.rows) return;
  const int total = args.num_heads + args.num_kv_heads;
  const int turns = (total + S::kHeads - 1) / S::kHeads;
  const int first_turn = (warp - row * grid.row_warps) * grid.row_turns;
  const int end_turn = min(first_turn + grid.row_turns, turns);
  const int j = lane % S::kLanes;
  const uint16_t* source = source_of<C>(args, row) + 8 * j;
  const auto head_of = [&](int turn) {
    return min(turn * S::kHeads + lane / S::kLanes, total - 1);
  };
  const auto request = [&](int turn, int slot) {
    if (turn < end_turn) {
      const uint16_t* from = source + head_of(turn) * C::kHeadDim;
      ptx::async_copy_16(ptx::shared_address(&ring.half[slot][0][lane]), from, 16);
      ptx::async_copy_16(ptx::shared_address(&ring.half[slot][1][lane]), from + C::kHeadDim / 2,
                         16);
    }
    ptx::async_copy_commit();
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) request(first_turn + i, i);
  const int b = sequence_of(args, grid, row, lane);
  const int end = grid.uniform_rows > 0 ? (b + 1) * grid.uniform_rows : args.cu_rows[b + 1];
  const RowPlace at = place_of_row(args, row, b, end - row);
  Part<S::kRun> angles;
  load_angles<C, S>(args, at.position, j, angles);
  const int page = *at.table;
  int slot = 0;
#pragma unroll 1
  for (int turn = first_turn; turn < end_turn; ++turn) {
    ptx::async_copy_wait<kDepth - 1>();
    const uint4 low = ring.half[slot][0][lane], high = ring.half[slot][1][lane];
    const int head = head_of(turn);
    KvScale scale;
    if constexpr (C::kFp8Cache) scale = scale_of(args, head < args.num_heads ? kQ : kK, head);
    const Target target =
        target_of<C>(args, at, page, head, scale, turn * S::kHeads + lane / S::kLanes < total);
    write_head<C, S>(args, target, low, high, angles, head, j);
    request(turn + kDepth, slot);
    slot = slot + 1 == kDepth ? 0 : slot + 1;
  }
}

}  // namespace kv8::kv_write
