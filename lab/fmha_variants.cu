#include "cuda/attention/sm90/prefill/entry.cuh"
#include "fmha_variants.h"

namespace kv8::lab {
namespace {

using namespace sm90;
constexpr KvType F8 = KvType::kE4m3;
constexpr KvType F16 = KvType::kF16;
constexpr ScoreType H = ScoreType::kF16;
constexpr ScoreType F = ScoreType::kF32;

//             type, head_dim, scores, row groups, key groups, keys, stages, blocks/SM, codes, cut
template <KvType kKv, int kHeadDim, ScoreType kScore, int kRows, int kGroups, int kKeys,
          int kStages, int kBlocks, int kCodes, bool kCut>
KernelEntry make() {
  return kernel_entry<PrefillConfig<kKv, kHeadDim, kScore, kRows, kGroups, kKeys, kStages, kBlocks,
                                    kCodes, kCut>>();
}

const Variant kVariants[] = {
#if KV8_LAB_PART == 0
    {"a-r3n192c4", make<F8, 128, H, 3, 1, 192, 3, 1, 4, true>()},
    {"a-r3n192c2", make<F8, 128, H, 3, 1, 192, 3, 1, 2, true>()},
    {"a-r3n128c4", make<F8, 128, H, 3, 1, 128, 4, 1, 4, true>()},
    {"a-r2n128c4", make<F8, 128, H, 2, 1, 128, 4, 1, 4, true>()},
    {"a-two-c4", make<F8, 128, H, 1, 1, 128, 3, 2, 4, true>()},
    {"a-two-n64", make<F8, 128, H, 1, 1, 64, 6, 2, 4, true>()},
    {"a-g2n128c4", make<F8, 128, H, 1, 2, 128, 4, 1, 4, true>()},
    {"a-f32-r3", make<F8, 128, F, 3, 1, 128, 4, 1, 0, true>()},
    {"a-half-r3n64", make<F16, 128, F, 3, 1, 64, 4, 1, 0, true>()},
    {"a-half-r2n128", make<F16, 128, F, 2, 1, 128, 2, 1, 0, true>()},
    {"a-half-r3n128", make<F16, 128, F, 3, 1, 128, 2, 1, 0, true>()},
    {"a-half-two", make<F16, 128, F, 1, 1, 64, 3, 2, 0, true>()},
    {"b-r4n128c5", make<F8, 64, H, 4, 1, 128, 4, 1, 5, true>()},
    {"b-r4n128c4", make<F8, 64, H, 4, 1, 128, 4, 1, 4, true>()},
    {"b-r3n192c5", make<F8, 64, H, 3, 1, 192, 4, 1, 5, true>()},
    {"b-two-c4", make<F8, 64, H, 1, 1, 128, 4, 2, 4, true>()},
    {"b-g3n128c4", make<F8, 64, H, 1, 3, 128, 6, 1, 4, true>()},
    {"b-f32", make<F8, 64, F, 3, 1, 128, 4, 1, 0, true>()},
    {"b-half-r3n128", make<F16, 64, F, 3, 1, 128, 3, 1, 0, true>()},
    {"b-half-r2n128", make<F16, 64, F, 2, 1, 128, 4, 1, 0, true>()},
    {"b-half-two", make<F16, 64, F, 1, 1, 128, 3, 2, 0, true>()},
#endif
};

}  // namespace

std::span<const Variant> variants() { return kVariants; }

}  // namespace kv8::lab
