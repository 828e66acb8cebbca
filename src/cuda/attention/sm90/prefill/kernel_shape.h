// The host-side description of a compiled prefill kernel. Plain, so that CUDA sources can include
// it.
#pragma once

#include "cuda/attention/params.h"

namespace kv8::sm90 {

/// What a consumer warpgroup does while the tensor core works for it. kSerial: it waits, other
/// warpgroups fill the gaps; needs the fewest registers. kOverlapped: the next key tile's softmax.
enum class Loop { kSerial, kOverlapped };

/// For tables of kernels, whose rows are full of these.
namespace short_names {
inline constexpr KvType kE4m3 = KvType::kE4m3;
inline constexpr KvType kHalf = KvType::kF16;
inline constexpr ScoreType kH = ScoreType::kF16;
inline constexpr ScoreType kF = ScoreType::kF32;
inline constexpr Loop kS = Loop::kSerial;
inline constexpr Loop kO = Loop::kOverlapped;
}  // namespace short_names

/// What distinguishes one compiled kernel from another.
struct KernelShape {
  KvType kv_type = KvType::kE4m3;
  int head_dim = 0;
  ScoreType score_type = ScoreType::kF32;
  int row_groups = 0;  ///< warpgroups side by side, 64 query rows each
  int key_groups = 0;  ///< copies of each, which share the keys
  int keys = 0;        ///< keys of one tile
  int blocks_per_sm = 0;
  int code_eighths = 0;  ///< share of exponentials computed as E4M3 codes
  Loop loop = Loop::kSerial;

  friend bool operator==(const KernelShape&, const KernelShape&) = default;
};

/// One compiled kernel: its device function and what the host must know to launch it.
struct KernelEntry {
  KernelShape shape;
  const void* function = nullptr;
  int threads = 0;
  int smem_bytes = 0;
};

}  // namespace kv8::sm90
