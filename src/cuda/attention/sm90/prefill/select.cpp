#include "cuda/attention/sm90/prefill/select.h"

#include <algorithm>
#include <array>

#include "cuda/attention/sm90/prefill/kernels/kernels.h"

namespace kv8::sm90 {
namespace {

using namespace short_names;

// name, {type, head_dim, scores, row groups, key groups, keys, blocks/SM, code eighths, loop}, cost
constexpr std::array kKernels = {
    SelectableKernel{"fp8_d128_rows192_keys192",
                     {kE4m3, 128, kH, 3, 1, 192, 1, 4, kS},
                     {6.27f, 2.00f, 2.19f},
                     fp8_d128_rows192_keys192},
    SelectableKernel{"fp8_d128_rows192_keys128",
                     {kE4m3, 128, kH, 3, 1, 128, 1, 4, kS},
                     {5.91f, 1.85f, 1.60f},
                     fp8_d128_rows192_keys128},
    SelectableKernel{"fp8_d128_rows128",
                     {kE4m3, 128, kH, 2, 1, 128, 1, 4, kO},
                     {7.62f, 1.07f, 1.22f},
                     fp8_d128_rows128},
    SelectableKernel{"fp8_d128_rows64",
                     {kE4m3, 128, kH, 1, 1, 128, 2, 4, kO},
                     {4.97f, 2.15f, 1.25f},
                     fp8_d128_rows64},
    SelectableKernel{"fp8_d128_split2",
                     {kE4m3, 128, kH, 1, 2, 128, 1, 4, kS},
                     {6.69f, 2.15f, 1.05f},
                     fp8_d128_split2},
    SelectableKernel{"fp8_d128_f32_scores",
                     {kE4m3, 128, kF, 2, 1, 128, 1, 0, kS},
                     {7.00f, 1.65f, 1.40f},
                     fp8_d128_f32_scores},
    SelectableKernel{"fp8_d64_rows256",
                     {kE4m3, 64, kH, 4, 1, 128, 1, 5, kS},
                     {5.90f, 0.80f, 1.44f},
                     fp8_d64_rows256},
    SelectableKernel{"fp8_d64_rows192",
                     {kE4m3, 64, kH, 3, 1, 192, 1, 5, kS},
                     {6.20f, 2.00f, 1.48f},
                     fp8_d64_rows192},
    SelectableKernel{"fp8_d64_rows64",
                     {kE4m3, 64, kH, 1, 1, 128, 2, 4, kS},
                     {4.80f, 2.04f, 0.88f},
                     fp8_d64_rows64},
    SelectableKernel{"fp8_d64_split3",
                     {kE4m3, 64, kH, 1, 3, 128, 1, 4, kS},
                     {6.23f, 1.73f, 1.45f},
                     fp8_d64_split3},
    SelectableKernel{"fp8_d64_f32_scores",
                     {kE4m3, 64, kF, 3, 1, 128, 1, 0, kS},
                     {6.0f, 1.50f, 1.50f},
                     fp8_d64_f32_scores},
    SelectableKernel{"f16_d128_rows192",
                     {kHalf, 128, kF, 3, 1, 128, 1, 0, kS},
                     {6.61f, 3.08f, 2.25f},
                     f16_d128_rows192},
    SelectableKernel{"f16_d128_rows128",
                     {kHalf, 128, kF, 2, 1, 128, 1, 0, kS},
                     {7.22f, 1.32f, 1.85f},
                     f16_d128_rows128},
    SelectableKernel{"f16_d128_rows64",
                     {kHalf, 128, kF, 1, 1, 64, 2, 0, kO},
                     {4.66f, 2.41f, 1.06f},
                     f16_d128_rows64},
    SelectableKernel{"f16_d64_rows192",
                     {kHalf, 64, kF, 3, 1, 128, 1, 0, kS},
                     {5.47f, 0.96f, 1.72f},
                     f16_d64_rows192},
    SelectableKernel{"f16_d64_rows64",
                     {kHalf, 64, kF, 1, 1, 128, 2, 0, kS},
                     {5.00f, 2.22f, 1.17f},
                     f16_d64_rows64},
};

const char* name_of(KvType type) { return type == KvType::kE4m3 ? "e4m3" : "f16"; }
const char* name_of(ScoreType type) { return type == ScoreType::kF16 ? "f16" : "f32"; }

}  // namespace

std::span<const SelectableKernel> selectable_kernels() { return kKernels; }

int packable_heads(int heads_per_kv) {
  for (int heads = std::min(heads_per_kv, 8); heads > 1; --heads) {
    if (heads_per_kv % heads == 0) return heads;
  }
  return 1;
}

int packed_heads(const KernelShape& shape, const SelectInput& input) {
  const int rows = 64 * shape.row_groups;
  const int packable = packable_heads(input.num_heads / input.num_kv_heads);
  const auto tiles = [&](int packed) {
    const std::int64_t tokens = rows / packed;
    return (input.max_q_len + tokens - 1) / tokens * input.batch * (input.num_heads / packed);
  };
  const bool half_empty = 2 * tiles(packable) <= tiles(1);
  const bool many = tiles(1) >= std::int64_t{8} * input.num_sms * shape.blocks_per_sm;
  return half_empty || (many && shape.kv_type == KvType::kE4m3) ? packable : 1;
}

double estimate_us(const SelectableKernel& kernel, const SelectInput& input) {
  const KernelShape& shape = kernel.shape;
  const KernelCost& cost = kernel.cost;
  const double keys_a_step = double(shape.keys) * shape.key_groups;
  const int packed = packed_heads(shape, input);
  const int tokens = 64 * shape.row_groups / packed;
  const double slots = double(input.num_sms) * shape.blocks_per_sm;
  const double sequences = double(input.batch) * input.num_heads / packed;
  double work = 0, longest = 0;
  int blocks = 0;
  for (std::int64_t end = input.max_q_len; end > 0; end -= tokens, ++blocks) {
    const std::int64_t keys = std::max<std::int64_t>(end + input.max_kv_len - input.max_q_len, 0);
    const double pages = double((keys + 63) / 64);
    const double tile = cost.tile_us + cost.step_us * pages * 64.0 / keys_a_step;
    longest = std::max(longest, tile);
    work += tile * sequences;
  }
  double us = cost.launch_us + std::max(longest, work / slots);
  // With several tiles a block, the last ones leave part of the GPU idle.
  if (blocks * sequences > slots) {
    us += 0.35 * (cost.tile_us + 0.5 * cost.step_us * input.max_kv_len / keys_a_step);
  }
  return us;
}

Result<const SelectableKernel*> select_kernel(const SelectInput& input) {
  const SelectableKernel* best = nullptr;
  double best_us = 0;
  for (const SelectableKernel& kernel : kKernels) {
    const KernelShape& shape = kernel.shape;
    if (shape.kv_type != input.kv_type || shape.head_dim != input.head_dim ||
        shape.score_type != input.score_type) {
      continue;
    }
    const double us = estimate_us(kernel, input);
    if (best == nullptr || us < best_us) {
      best = &kernel;
      best_us = us;
    }
  }
  if (best == nullptr) {
    return unsupported(
        "prefill attention: no kernel for {} with head_dim {} and {} scores; there are e4m3 with "
        "head_dim 64 or 128 and f16 or f32 scores, and f16 with head_dim 64 or 128 and f32 scores",
        name_of(input.kv_type), input.head_dim, name_of(input.score_type));
  }
  return best;
}

std::string to_string(const KernelShape& shape) {
  return fmt::format("{} d{}, {} scores, {}x64 rows, {}x{} keys{}", name_of(shape.kv_type),
                     shape.head_dim, name_of(shape.score_type), shape.row_groups, shape.key_groups,
                     shape.keys, shape.blocks_per_sm == 2 ? ", two blocks an SM" : "");
}

}  // namespace kv8::sm90
