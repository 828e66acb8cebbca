// Draws the token of a row with a Selector: what is common to rows of few logits and whole ones.
#pragma once

#include "cuda/dense/sample/row.cuh"
#include "cuda/dense/sample/select.cuh"

namespace kv8::sample {

struct SearchMemory {
  RowMemory row;
  SelectMemory select;
};

class RowSearch : protected RowReader {
 protected:
  __device__ __forceinline__ RowSearch(const SampleArgs& args, SearchMemory& memory,
                                       RowState& state, int row, int part, int parts)
      : RowReader(args, memory.row, state, row, part, parts),
        selector_(memory.select, memory.row.keys, state, part, parts) {}

  /// The token's place. `kept`: weight of all tokens, in units of 2^-56; `before_edge` and
  /// `before_token`: what the selector's keys lack before the nucleus's edge and before the token.
  __device__ __forceinline__ const Place& search(double kept, double before_edge,
                                                 double before_token) {
    // One loop, so that the search is compiled once.
#pragma unroll 1
    for (int i = Goal::kCount; i <= Goal::kExceed; ++i) {
      const auto kind = static_cast<Goal::Kind>(i);
      if (kind == Goal::kCount && whole_row()) continue;
      if (kind == Goal::kReach && settings_.top_p >= 1.0f) continue;
      const double share = kind == Goal::kReach ? static_cast<double>(settings_.top_p)
                                                : uniform_at(settings_.seed, settings_.step);
      const double mass = kind == Goal::kExceed ? drawn_mass(share, kept) : share * kept;
      const double missing = kind == Goal::kReach ? before_edge : before_token;
      const Place& place =
          selector_.find({kind, static_cast<uint32_t>(settings_.top_k), mass - missing});
      kept = missing + place.prefix.mass.value();
    }
    return selector_.found();
  }

  Selector selector_;
};

}  // namespace kv8::sample
