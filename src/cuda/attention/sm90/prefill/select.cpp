#include "cuda/attention/sm90/prefill/select.h"

namespace kv8::sm90 {

std::string to_string(const KernelShape& shape) {
  return fmt::format("{} d{} {} scores, {}x64 rows, {} key groups of {} keys, {} blocks/SM, {}/8 codes",
                     shape.kv_type == KvType::kE4m3 ? "e4m3" : "f16", shape.head_dim,
                     shape.score_type == ScoreType::kF16 ? "f16" : "f32", shape.row_groups,
                     shape.key_groups, shape.keys, shape.blocks_per_sm, shape.code_eighths);
}

}  // namespace kv8::sm90
