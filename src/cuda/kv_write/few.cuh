// Few rows a sequence, as many of each: decode. What counts is the way from the launch to the last
// store, two loads that wait for each other, all from cold memory. Each warp takes its share of one
// row in one go, everything is requested as early as its address is known, and caches of both types
// are one piece of code.
#pragma once

#include "cuda/dense/start.cuh"
#include "cuda/kv_write/heads.cuh"
#include "cuda/ptx/bulk.cuh"

namespace kv8::kv_write {

template <class C>
using FewSplit = Split<C, 2>;

/// Warps of one row: for Q and K, and one for each head of V.
template <class C>
constexpr int few_warps(int num_heads, int num_kv_heads) {
  return (num_heads + num_kv_heads + FewSplit<C>::kHeads - 1) / FewSplit<C>::kHeads + num_kv_heads;
}

/// Has the compiler compute `x` before what follows: in the shadow of a load, not behind it.
template <class T>
__device__ __forceinline__ void settle(T& x) {
  if constexpr (sizeof(T) == 2) {
    asm volatile("" : "+h"(reinterpret_cast<uint16_t&>(x)));
  } else if constexpr (sizeof(T) == 8 && alignof(T) == 8 && !std::is_class_v<T>) {
    asm volatile("" : "+l"(x));
  } else {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(T) / 4); ++i) {
      asm volatile("" : "+r"(reinterpret_cast<uint32_t*>(&x)[i]));
    }
  }
}

/// One warp, some heads of Q and K of one row. `left`: rows of the sequence from this one on.
template <class C>
__device__ __forceinline__ void write_heads(const KvWriteArgs& args, int row, int left, int piece,
                                            int lane) {
  using S = FewSplit<C>;
  const int j = lane % S::kLanes, total = args.num_heads + args.num_kv_heads;
  const int mine = piece * S::kHeads + lane / S::kLanes, head = min(mine, total - 1);
  const auto* source =
      reinterpret_cast<const typename S::Raw*>(source_of<C>(args, row) + head * C::kHeadDim) + j;
  ptx::prefetch_l2(source);  // may still be written to
  ptx::prefetch_l2(source + S::kLanes);
  KvScale scale = scale_of(args, head < args.num_heads ? kQ : kK, head);
  settle(source);
  settle(scale);
  const RowPlace at = place_of_row(args, row, blockIdx.x, left);
  Part<S::kRun> angles;
  load_angles<C, S>(args, at.position, j, angles);
  settle(angles);
  ptx::wait_for_predecessors();
  int page = *at.table;
  settle(page);
  auto low = __ldcs(source), high = __ldcs(source + S::kLanes);
  settle(low);
  settle(high);
  Target target = target_of<C>(args, at, page, head, scale, mine < total);
  settle(target.to);
  settle(target.limit);
  __builtin_assume(__isGlobal(target.to));
  write_head<C, S>(args, target, low, high, angles, head, j);
}

/// One warp, one head of V of one row. Neighbouring lanes take neighbouring dims, which lie a page
/// row apart: two of FP8 still share a line of 128 bytes.
template <class C>
__device__ __forceinline__ void write_values(const KvWriteArgs& args, int row, int left,
                                             int kv_head, int lane) {
  constexpr int kCount = C::kHeadDim / 32;
  const int head = args.num_heads + args.num_kv_heads + kv_head;
  const uint16_t* source = source_of<C>(args, row) + head * C::kHeadDim + lane;
  ptx::prefetch_l2(source + (kCount - 1) * lane);
  KvScale scale = scale_of(args, kV, head);
  settle(source);
  settle(scale);
  const RowPlace at = place_of_row(args, row, blockIdx.x, left);
  ptx::wait_for_predecessors();
  if (at.position < 0) return;
  int page = *at.table;
  settle(page);
  uint16_t raw[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    raw[i] = __ldcs(source + 32 * i);
    settle(raw[i]);
  }
  int64_t first = layout_of<C>(args).v_offset(page, kv_head, at.slot, lane);
  settle(first);
  float x[1][kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[0][i] = dense::widen<C::kBf16>(raw[i]);
    if (!C::kPlain && args.v_offset != nullptr) {
      x[0][i] = __fsub_rn(x[0][i], args.v_offset[kv_head * C::kHeadDim + 32 * i + lane]);
    }
  }
  const auto place_fp8 = [&] {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      static_cast<uint8_t*>(args.v_pool)[first + 32 * i * kPageTokens] =
          static_cast<uint8_t>(ptx::floats_to_e4m3(x[0][i], 0.0f, 0.0f, 0.0f));
    }
  };
  if (C::fp8_cache(args)) [[likely]] {
    if (!product_suffices<C>(args, scale)) [[unlikely]] {
      quotients(x, scale);
      place_fp8();
      return;  // the usual way stays in one piece
    }
    products(x, scale);
    place_fp8();
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    static_cast<uint16_t*>(args.v_pool)[first + 32 * i * kPageTokens] =
        static_cast<uint16_t>(ptx::floats_to_half_pair(x[0][i], 0.0f));
  }
}

/// Grid: sequences, pieces of a row, rows of a sequence.
template <class C>
__global__ void __launch_bounds__(128)
    rope_quantize_write_few(const __grid_constant__ KvWriteArgs args) {
  ptx::start_dependents();
  const int piece = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  const int kv_head = piece - (few_warps<C>(args.num_heads, args.num_kv_heads) - args.num_kv_heads);
  const int left = gridDim.z - blockIdx.z, row = blockIdx.x * gridDim.z + blockIdx.z;
  if (kv_head < 0) {
    write_heads<C>(args, row, left, piece, lane);
  } else if (kv_head < args.num_kv_heads) {
    write_values<C>(args, row, left, kv_head, lane);
  }
}

}  // namespace kv8::kv_write
