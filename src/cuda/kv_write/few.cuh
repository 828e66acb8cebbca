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
  settle(source);
  const AnglesAt angles_from = angles_at<C, S>(args, j);
  const RowPlace at = place_of_row(args, row, blockIdx.x, left);
  Part<S::kRun> angles;
  load_angles<C, S>(angles_from, at.position, angles);
  ptx::wait_for_predecessors();
  const uint32_t page = *at.table;
  const auto low = __ldcs(source), high = __ldcs(source + S::kLanes);
  const Target target = target_of<C, S>(args, at, mine, total, j);
  const auto to = [&] { return in_page(target.to, page, target.page); };
  write_head<C, S>(args, at, target, to, low, high, angles, head, j);
}

/// Stores rounded values of V, whose dims are 32 apart.
template <class Element, class Codes>
__device__ __forceinline__ void place_values(uint8_t* to, const Codes& codes) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Codes) / sizeof(Element)); ++i) {
    reinterpret_cast<Element*>(to)[32 * i * kPageTokens] =
        reinterpret_cast<const Element*>(&codes)[i];
  }
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
  settle(source);
  const float inverse = scale_of(args, kV, head).inverse;
  const RowPlace at = place_of_row(args, row, blockIdx.x, left);
  ptx::wait_for_predecessors();
  if (at.position < 0) return;
  const uint32_t page = *at.table;
  uint16_t raw[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) raw[i] = __ldcs(source + 32 * i);
  const KvLayout layout = layout_of<C>(args);
  const uint32_t page_bytes = static_cast<uint32_t>(layout.page_elements() * layout.elem_bytes);
  uint8_t* to = static_cast<uint8_t*>(args.v_pool) +
                layout.v_offset(0, kv_head, static_cast<int>(at.slot), lane) * layout.elem_bytes;
  settle(to);
  float x[1][kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    x[0][i] = dense::widen<C::kBf16>(raw[i]);
    if (!C::kPlain && args.v_offset != nullptr) {
      x[0][i] = __fsub_rn(x[0][i], args.v_offset[kv_head * C::kHeadDim + 32 * i + lane]);
    }
  }
  if (C::fp8_cache(args)) [[likely]] {
    if (!product_suffices<C>(args, inverse)) [[unlikely]] {
      quotients(x, scale_of(args, kV, head));
      place_values<uint8_t>(in_page(to, page, page_bytes), round<true>(x[0]));
      return;  // the usual way stays in one piece
    }
    products(x, inverse);
    place_values<uint8_t>(in_page(to, page, page_bytes), round<true>(x[0]));
    return;
  }
  place_values<uint16_t>(in_page(to, page, page_bytes), round<false>(x[0]));
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
