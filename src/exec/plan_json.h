// The plan as text: the middle section of an engine file. docs/engine-format.md lists the fields.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/plan.h"

namespace kv8::exec {

inline constexpr std::uint64_t kWeightAlignment = 64;

/// Where each weight of a plan lies in the weights section, and the section's size: in the plan's
/// order, each at the next multiple of kWeightAlignment. Fails for sizes beyond 2^62.
struct WeightLayout {
  std::vector<std::uint64_t> offsets, sizes;
  std::uint64_t total = 0;
};
Result<WeightLayout> layout_weights(const std::vector<PlanWeight>& weights);

/// Deterministic: the same plan gives the same text.
Result<std::string> plan_to_json(const Plan& plan);

/// The plan that `text` describes, with weights that are views into `weights`, kept alive through
/// `owner`. The plan is checked (kv8::validate); `source` is named in errors.
Result<Plan> plan_from_json(std::string_view text, std::span<const std::byte> weights,
                            const std::shared_ptr<const void>& owner, std::string_view source);

}  // namespace kv8::exec
