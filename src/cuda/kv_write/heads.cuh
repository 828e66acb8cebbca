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

/// Where a lane finds its cosines and sines of position 0.
struct AnglesAt {
  const float *cos, *sin;
};
template <class C, class S>
__device__ __forceinline__ AnglesAt angles_at(const KvWriteArgs& args, int j) {
  AnglesAt at{args.cos + S::kRun * j, args.sin + S::kRun * j};
  settle(at.cos);  // one addition leads from a position to its angles
  settle(at.sin);
  return at;
}

/// Cosines and sines of a lane's dims.
template <class C, class S>
__device__ __forceinline__ void load_angles(const AnglesAt& from, int position,
                                            Part<S::kRun>& angles) {
  using Floats = Packed<S::kRun == 2 ? 8 : 16>;
  constexpr int kLoads = S::kRun * 4 / sizeof(Floats);
  const unsigned at = static_cast<unsigned>(max(position, 0));
  const Floats* cos = reinterpret_cast<const Floats*>(from.cos + uint64_t{at} * (C::kHeadDim / 2));
  const Floats* sin = reinterpret_cast<const Floats*>(from.sin + uint64_t{at} * (C::kHeadDim / 2));
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    reinterpret_cast<Floats*>(angles.half[0])[i] = cos[i];
    reinterpret_cast<Floats*>(angles.half[1])[i] = sin[i];
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

/// Where a lane's part of a head goes and how. The same is true of the heads behind it up to
/// `until`, each `step` further on.
struct Target {
  uint8_t* to;    ///< in page 0; the part's upper half lies half a head later
  uint32_t step;  ///< bytes from head to head
  uint32_t page;  ///< bytes from page to page, 0 for Q
  float inverse;  ///< of the scale: KvScale's
  bool fp8;
  bool stores;  ///< else nothing is stored
  bool usual;   ///< a token's, without a limit, and one product leads to a code
  int until;    ///< of a row of qkv
};

/// Of head `head` of a row of qkv; those from `end` on do not exist.
template <class C, class S>
__device__ __forceinline__ Target target_of(const KvWriteArgs& args, const RowPlace& at, int head,
                                            int end, int j) {
  const bool is_q = head < args.num_heads, pads = at.position < 0;
  const KvLayout layout = layout_of<C>(args);
  Target target;
  target.fp8 = is_q ? C::fp8_q(args) : C::fp8_cache(args);
  const int elem_bytes = target.fp8 ? 1 : 2;
  const int64_t first =
      is_q ? (int64_t{at.row} * args.num_heads + head) * C::kHeadDim
           : layout.k_offset(0, head - args.num_heads, static_cast<int>(at.slot), 0);
  target.to =
      static_cast<uint8_t*>(is_q ? args.q_out : args.k_pool) + (first + S::kRun * j) * elem_bytes;
  target.step = static_cast<uint32_t>((is_q ? 1 : kPageTokens) * C::kHeadDim * elem_bytes);
  target.page = is_q ? 0 : static_cast<uint32_t>(layout.page_elements() * layout.elem_bytes);
  target.stores = head < end && (is_q || !pads);
  target.usual = target.stores && !pads;
  target.until = min(is_q ? args.num_heads : end, end);
  target.inverse = 0.0f;
  if (target.fp8 && target.stores) {
    const float limit = is_q ? args.q_limit : args.k_limit;
    target.inverse = scale_of(args, is_q ? kQ : kK, head).inverse;
    target.usual = target.usual && product_suffices<C>(args, target.inverse) && limit >= kE4m3Max;
    if (args.head_scales != nullptr) target.until = head;
  }
  return target;
}

/// Rounds and stores a head where something is not as usual.
template <class C, class S>
__device__ __forceinline__ void store_unusual(const KvWriteArgs& args, const RowPlace& at,
                                              const Target& target, uint8_t* to, Part<S::kRun>& x,
                                              int head) {
  if (!target.stores) return;
  const bool is_q = head < args.num_heads, pads = at.position < 0;
  if (!target.fp8) {
    place<false, C::kHeadDim>(to, x, pads);
    return;
  }
  if (product_suffices<C>(args, target.inverse)) {
    products(x.half, target.inverse);
  } else {
    quotients(x.half, scale_of(args, is_q ? kQ : kK, head));
  }
  const float limit = is_q ? args.q_limit : args.k_limit;
  if (limit < kE4m3Max) saturate(x.half, limit);
  place<true, C::kHeadDim>(to, x, pads);
}

/// All stages; called by whole warps. `low` and `high`: the lane's part of the head. `to` is asked
/// where that goes when everything else is done.
template <class C, class S, class Place>
__device__ __forceinline__ void write_head(const KvWriteArgs& args, const RowPlace& at,
                                           const Target& target, const Place& to,
                                           const typename S::Raw& low, const typename S::Raw& high,
                                           const Part<S::kRun>& angles, int head, int j) {
  Part<S::kRun> x;
  widen<C::kBf16>(low, x.half[0]);
  widen<C::kBf16>(high, x.half[1]);
  transform_head<C, S>(args, x, angles, head, j);
  if (target.usual) [[likely]] {
    if (target.fp8) {
      products(x.half, target.inverse);
      place<true, C::kHeadDim>(to(), x, false);
    } else {
      place<false, C::kHeadDim>(to(), x, false);
    }
    return;
  }
  store_unusual<C, S>(args, at, target, to(), x, head);
}

}  // namespace kv8::kv_write
