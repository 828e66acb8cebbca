// The parameter and the compile-time shape of a portable prefill kernel.
#pragma once

#include <cstdint>

#include "cuda/attention/portable/prefill/products.h"
#include "cuda/attention/prefill/common_params.h"
#include "ops/kv_layout.h"

namespace kv8::portable {

struct PrefillParams : prefill::CommonParams {
  const uint8_t* q;
  const uint8_t* k;
  const uint8_t* v;
  bool q_is_f16;
};

/// A block takes 128 query rows and loads a page of keys at a time; each of its four warps attends
/// with 32 of the rows to half a page at a time (scores of a whole page would not fit in registers
/// beside the output).
template <Products kHow, int kDim>
struct PrefillConfig {
  static constexpr Products kProducts = kHow;
  static constexpr bool kFp8 = kHow != Products::kF16;    // as stored
  static constexpr bool kE4m3 = kHow == Products::kE4m3;  // as multiplied
  static constexpr bool kWidened = kHow == Products::kWidened;
  static constexpr int kHeadDim = kDim;
  static constexpr int kElemBytes = kFp8 ? 1 : 2;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 32;  // two row tiles of a product
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kStages = 2;

  static constexpr int kKRowBytes = kDim * kElemBytes;         // of one key
  static constexpr int kVRowBytes = kPageTokens * kElemBytes;  // of one dimension
  static constexpr int kPageBytes = kPageTokens * kKRowBytes;  // of K or V of one head
  static constexpr int kStageBytes = 2 * kPageBytes;
  static constexpr int kDepth = kE4m3 ? 32 : 16;  // contracted by one product
  static constexpr int kQSteps = kDim / kDepth;
  static constexpr int kStepsPerLoad = 2;
  static constexpr int kKLoadBytes = kWidened ? 8 : 16;  // of a lane from one key
  static constexpr int kKLoads = kKRowBytes / (4 * kKLoadBytes);
  static constexpr int kKeys = 32;  // attended to at once
  static constexpr int kScoreTiles = kKeys / 8;
  static constexpr int kPSteps = kKeys / kDepth;
  static constexpr int kVLoadBytes = 8 * kElemBytes;  // of a lane from one dimension
  // Powers of two by which scores may pass the peak that they are held against before the output is
  // rescaled. FP16 has room for them; E4M3's largest value is near.
  static constexpr float kPeakSlack = kE4m3 ? 0.0f : 7.0f;
  static constexpr int kQBytes = kWarps * 2 * kQSteps * 512;  // fragments of both row tiles
  static constexpr int kSharedBytes = kQBytes + kStages * kStageBytes;
  static_assert(kSharedBytes <= 99 * 1024);  // what compute capability 8.9 and 12.x have
};

}  // namespace kv8::portable
