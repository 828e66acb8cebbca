// From PrefillConfig's parameters to a kernel.
#pragma once

#include "cuda/attention/sm90/prefill/entry.cuh"
#include "fmha_variants.h"

namespace kv8::lab {

using namespace sm90;
using namespace sm90::short_names;

//  type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, codes, loop
template <KvType kKv, int kHeadDim, ScoreType kScore, int kRows, int kGroups, int kKeys,
          int kStages, int kBlocks, int kCodes, Loop kLoop>
KernelEntry make() {
  return kernel_entry<PrefillConfig<kKv, kHeadDim, kScore, kRows, kGroups, kKeys, kStages, kBlocks,
                                    kCodes, kLoop>>();
}

}  // namespace kv8::lab
