// What a kernel is compiled for, and what rows and tiles have in common.
#pragma once

#include "cuda/kv_write/entry.h"
#include "cuda/kv_write/stages.cuh"
#include "cuda/ptx/dependent_launch.cuh"
#include "ops/kv_layout.h"

namespace kv8::kv_write {

/// kPlain: neither norms nor offsets nor the Hadamard transform, so that fewer registers do.
template <bool kBf16Model, int kDim, bool kIsPlain>
struct Model {
  static constexpr bool kBf16 = kBf16Model;
  static constexpr int kHeadDim = kDim;
  static constexpr bool kPlain = kIsPlain;
};

/// A kernel for one type of cache and of queries …
template <class M, bool kFp8CacheType, bool kFp8QType>
struct Typed : M {
  static constexpr bool kFp8Cache = kFp8CacheType;
  static constexpr int kElemBytes = kFp8CacheType ? 1 : 2;
  static __device__ constexpr bool fp8_cache(const KvWriteArgs&) { return kFp8CacheType; }
  static __device__ constexpr bool fp8_q(const KvWriteArgs&) { return kFp8QType; }
};
/// … or for any.
template <class M>
struct Untyped : M {
  static __device__ bool fp8_cache(const KvWriteArgs& args) { return args.fp8_cache; }
  static __device__ bool fp8_q(const KvWriteArgs& args) { return args.fp8_q; }
};

template <class C>
__device__ __forceinline__ KvLayout layout_of(const KvWriteArgs& args) {
  return {args.num_kv_heads, C::kHeadDim, C::fp8_cache(args) ? 1 : 2};
}

/// Has the compiler compute a pointer to global memory here, rather than where it is used.
template <class T>
__device__ __forceinline__ void settle(T*& pointer) {
  asm volatile("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
}

/// base + page * bytes, computed right where it is used: `page` comes from memory.
__device__ __forceinline__ uint8_t* in_page(uint8_t* base, uint32_t page, uint32_t bytes) {
  uint64_t at;
  asm volatile("mad.wide.u32 %0, %1, %2, %3;"
               : "=l"(at)
               : "r"(page), "r"(bytes), "l"(reinterpret_cast<uint64_t>(base)));
  return static_cast<uint8_t*>(__cvta_global_to_generic(at));
}

/// Whether one product leads to a value's code.
template <class C>
__device__ __forceinline__ bool product_suffices(const KvWriteArgs& args, float inverse) {
  const bool have_models_type =
      C::kPlain || (args.k_offset == nullptr && args.v_offset == nullptr && !args.hadamard);
  return inverse > 0.0f && have_models_type;
}

/// What a head of a row of qkv holds.
enum Kind : int { kQ, kK, kV };

/// `head`: of a row of qkv.
__device__ __forceinline__ KvScale scale_of(const KvWriteArgs& args, Kind kind, int head) {
  if (args.head_scales == nullptr) return args.scales[kind];
  const float2 pair = reinterpret_cast<const float2*>(args.head_scales)[head];
  return {pair.x, pair.y};
}

/// Where a row of qkv begins; rows need not exist.
template <class C>
__device__ __forceinline__ const uint16_t* source_of(const KvWriteArgs& args, int64_t row) {
  return static_cast<const uint16_t*>(args.qkv) +
         row * ((args.num_heads + 2 * args.num_kv_heads) * C::kHeadDim);
}

/// Where a row's token goes.
struct RowPlace {
  int row;
  int position;          ///< for RoPE; negative: belongs to no token
  const int32_t* table;  ///< the page's entry
  unsigned slot;         ///< within the page
};

/// `left`: rows of sequence b from this one on.
__device__ __forceinline__ RowPlace place_of_row(const KvWriteArgs& args, int row, int b,
                                                 int left) {
  const int32_t* table = args.page_table + int64_t{b} * args.max_pages;
  settle(table);  // one addition leads from a length to a page
  RowPlace at;
  at.row = row;
  at.position = args.positions == nullptr ? 0 : args.positions[row];
  const unsigned index = static_cast<unsigned>(args.kv_lens[b] - left);  // in the cache
  if (args.positions == nullptr) at.position = static_cast<int>(index);
  at.slot = index % kPageTokens;
  at.table = table + index / kPageTokens;
  return at;
}

}  // namespace kv8::kv_write
