// A head of Q or K, from its values to where it belongs.
#pragma once

#include "cuda/kv_write/common.cuh"

namespace kv8::kv_write {

/// How a warp shares heads among its lanes.
template <class C, int kDimsOfEachHalf>
struct Split {
  static constexpr int kRun = kDimsOfEachHalf;
  static constexpr int kLanes = C::kHeadDim / (2 * kRun);
  static constexpr int kHeads = 32 / kLanes;  // at once
  using Raw = Packed<2 * kRun>;               // a lane's part of half a head of qkv
};

/// Cosines and sines of a lane's dims.
template <class C, class S>
__device__ __forceinline__ void load_angles(const KvWriteArgs& args, int position, int j,
                                            Part<S::kRun>& angles) {
  using Floats = Packed<S::kRun == 2 ? 8 : 16>;
  constexpr int kLoads = S::kRun * 4 / sizeof(Floats);
  const int64_t at = int64_t{max(position, 0)} * (C::kHeadDim / 2);
  const Floats* cos = reinterpret_cast<const Floats*>(args.cos + at);
  const Floats* sin = reinterpret_cast<const Floats*>(args.sin + at);
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    reinterpret_cast<Floats*>(angles.half[0])[i] = cos[kLoads * j + i];
    reinterpret_cast<Floats*>(angles.half[1])[i] = sin[kLoads * j + i];
  }
}

/// What happens before rounding; called by whole warps.
template <class C, class S>
__device__ __forceinline__ void transform_head(const KvWriteArgs& args, Part<S::kRun>& x,
                                               const Part<S::kRun>& angles, int head, int j) {
  const bool is_q = head < args.num_heads;
  if constexpr (!C::kPlain) {
    // Shuffles inside need every lane, so that what does not apply is computed and dropped.
    const void* norm = is_q ? args.q_norm : args.k_norm;
    if (args.q_norm != nullptr || args.k_norm != nullptr) {
      Part<S::kRun> y = x;
      normalize<C::kBf16, S::kLanes>(y, norm != nullptr ? norm : args.qkv, args.norm_eps, j);
      if (norm != nullptr) x = y;
    }
  }
  rope<C::kBf16>(x, angles);
  if constexpr (!C::kPlain) {
    if (args.k_offset != nullptr && !is_q) {
      subtract<S::kLanes>(x, args.k_offset + (head - args.num_heads) * C::kHeadDim, j);
    }
    if (args.hadamard) hadamard<S::kLanes>(x, j);
  }
}

/// Where a head goes and how.
struct Target {
  uint8_t* to;
  KvScale scale;
  float limit;  ///< largest code
  bool fp8;
  bool product;  ///< leads to the code; else it takes a division
  bool stores;   ///< else nothing is stored
  bool zeros;    ///< zeros are stored: a query of padding
};

/// `exists`: else nothing is stored. `page`: the one that holds the row's token.
template <class C>
__device__ __forceinline__ Target target_of(const KvWriteArgs& args, const RowPlace& at,
                                            int64_t page, int head, const KvScale& scale,
                                            bool exists) {
  const bool is_q = head < args.num_heads, pads = at.position < 0;
  Target target;
  target.fp8 = is_q ? C::fp8_q(args) : C::fp8_cache(args);
  target.product = product_suffices<C>(args, scale);
  target.scale = scale;
  target.limit = is_q ? args.q_limit : args.k_limit;
  const int64_t first = is_q ? (int64_t{at.row} * args.num_heads + head) * C::kHeadDim
                             : layout_of<C>(args).k_offset(page, head - args.num_heads, at.slot, 0);
  target.to =
      static_cast<uint8_t*>(is_q ? args.q_out : args.k_pool) + (target.fp8 ? first : 2 * first);
  target.stores = exists && (is_q || !pads);
  target.zeros = pads;
  return target;
}

/// All stages; called by whole warps. `low` and `high`: the lane's part of the head.
template <class C, class S>
__device__ __forceinline__ void write_head(const KvWriteArgs& args, const Target& target,
                                           const typename S::Raw& low, const typename S::Raw& high,
                                           const Part<S::kRun>& angles, int head, int j) {
  Part<S::kRun> x;
  widen<C::kBf16>(low, x.half[0]);
  widen<C::kBf16>(high, x.half[1]);
  transform_head<C, S>(args, x, angles, head, j);
  if (!target.stores) return;
  if (target.fp8) [[likely]] {
    if (!target.product) [[unlikely]] {
      quotients(x.half, target.scale);
      if (target.limit < 448.0f) saturate(x.half, target.limit);
      place<true, S::kLanes>(target.to, j, x, target.zeros);
      return;  // the usual way stays in one piece
    }
    products(x.half, target.scale);
    if (target.limit < 448.0f) saturate(x.half, target.limit);
    place<true, S::kLanes>(target.to, j, x, target.zeros);
    return;
  }
  place<false, S::kLanes>(target.to, j, x, target.zeros);
}

}  // namespace kv8::kv_write
