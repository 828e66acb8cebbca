// Prefill attention for Hopper, top to bottom: set-up, producer warpgroup, consumer warpgroups.
// Persistent: a block takes query tiles from a shared counter until there are none.
#pragma once

#include "cuda/attention/sm90/prefill/config.cuh"
#include "cuda/attention/sm90/prefill/consumer.cuh"
#include "cuda/attention/sm90/prefill/epilogue.cuh"
#include "cuda/attention/sm90/prefill/kernel_params.cuh"
#include "cuda/attention/sm90/prefill/producer.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/sync.cuh"

namespace kv8::sm90 {

template <class C>
__device__ void init_barriers(const SharedMemory<C>& smem) {
  constexpr int kReaders = 4 * C::kRowGroups;  // warps that consume one K or V stage
  for (int s = 0; s < C::kQStages; ++s) {
    ptx::mbarrier_init(smem.q_full(s), 1);
    ptx::mbarrier_init(smem.q_empty(s), 4 * C::kConsumers + 1);  // and the tail warp
  }
  for (int s = 0; s < C::kStages; ++s) {
    ptx::mbarrier_init(smem.k_full(s), 1);
    ptx::mbarrier_init(smem.k_empty(s), kReaders);
    ptx::mbarrier_init(smem.v_full(s), 1);
    ptx::mbarrier_init(smem.v_empty(s), kReaders);
    ptx::mbarrier_init(smem.v_tail(s), 1);
  }
  ptx::fence_mbarrier_init();
  ptx::fence_async_shared();
}

/// Writes the eight rows of ones behind every V page of every stage; no copy overwrites them.
template <class C>
__device__ void write_ones(const SharedMemory<C>& smem, int thread) {
  if constexpr (C::kOnesRows > 0) {
    constexpr int kWords = C::kOnesRows * C::kVRowBytes / 4;
    for (int i = thread; i < C::kStages * C::kPages * kWords; i += 128 * C::kConsumers) {
      const int stage = i / (C::kPages * kWords), page = i / kWords % C::kPages;
      uint8_t* ones =
          smem.generic(smem.v(stage) + page * C::kVPageBytes + C::kHeadDim * C::kVRowBytes);
      reinterpret_cast<uint32_t*>(ones)[i % kWords] = 0x38383838u;  // E4M3 1.0
    }
    ptx::fence_async_shared();
  }
}

template <class C>
__device__ __forceinline__ void consume(const KernelParams& params, SharedMemory<C> smem,
                                        int warpgroup) {
  const int row_group = C::kRowGroups == 1 ? 0 : warpgroup / C::kKeyGroups;
  const int key_group = warpgroup % C::kKeyGroups;
  const Consumer<C> self{smem, params};
  if (C::kKeyGroups > 1 && key_group == 0) {
    ptx::named_barrier_arrive(kMergeEmpty + row_group, 128 * C::kKeyGroups);
  }
  StageCursor<C> cursor;
  QCursor<C> slots;
  for (;;) {
    ptx::mbarrier_wait(smem.q_full(slots.slot()), slots.parity());
    const TileView info{smem.info(slots.slot())};
    if (info.key_tiles() == kNoMoreTiles) return;
    RowState<C> rows;
    rows.reset();
    self.attend_all(rows, info, cursor, key_group, smem.q(slots.slot()));
    const OutputTile tile{info.first_token(), info.rows(), info.head(), info.kv_head(),
                          info.out_scale()};
    __syncwarp();
    self.release(smem.q_empty(slots.slot()));
    slots.advance();
    finish_sums<C>(rows);
    if (merge_key_groups<C>(rows, smem, row_group, key_group, ptx::thread_index() % 128)) {
      store_rows<C>(rows, params, tile, self.thread_row(), ptx::thread_index() % 4);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocksPerSm)
    prefill_kernel(const __grid_constant__ KernelParams params) {
  extern __shared__ __align__(1024) uint8_t raw[];
  const SharedMemory<C> smem{ptx::shared_address(raw)};
  // The shuffle tells the compiler that the role is the same for a whole warp.
  const int warp = __shfl_sync(0xffffffffu, ptx::thread_index() / 32, 0);
  TileReader<C> reader{ptx::thread_index() % 32};

  if (warp == 0) {
    reader.request(params, blockIdx.x);
    if (reader.lane == 0) init_barriers(smem);
  } else if (warp == 1) {
    if (reader.lane == 0) {
      ptx::tma_prefetch_map(&params.k_map);
      ptx::tma_prefetch_map(&params.q_map);
      ptx::tma_prefetch_map(&params.v_map);
    }
  } else if (warp >= 4) {
    write_ones(smem, ptx::thread_index() - 128);
  }
  __syncthreads();

  if (warp < 4) {
    ptx::release_registers<C::kProducerRegisters>();
    if (warp == 0) {
      produce<C>(params, smem, reader);
    } else if (warp == 1) {
      clear_tails<C>(smem, ptx::thread_index() % 32);
    }
  } else {
    ptx::acquire_registers<C::kConsumerRegisters>();
    consume<C>(params, smem, warp / 4 - 1);
  }
}

}  // namespace kv8::sm90
