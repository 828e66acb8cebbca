// Is a plan consistent? Asked of every plan that the planner makes or an engine file holds, so that
// a backend may run its steps without looking.
#pragma once

#include <string_view>
#include <vector>

#include "graph/plan.h"

namespace kv8::exec {

/// Checks every number of the plan: geometry, weights' bytes against their shapes, caches and
/// scales, and each step's slots, weights and layer against what the steps before it wrote. The
/// error names the step, what was found and what was expected.
Status check_plan(const Plan& plan);

/// Checks the dequant scales of a layer: `count` 1 or `num_kv_heads`, all positive and finite.
Status check_scales(const std::vector<float>& scales, std::int32_t num_kv_heads,
                    std::string_view name);

}  // namespace kv8::exec
