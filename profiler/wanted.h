#pragma once

#include <vector>

#include "planner/plan.h"

namespace shardwright {

/// What the layouts of an answer ask for: its ranked ones, those with less memory, and those that tie. Kernels that
/// were measured, and those in `known` (that could not be), are left out; the rest by the time they take, longest
/// first.
std::vector<KernelSpec> wanted_kernels(const PlanRequest& request, const PlanResult& result,
                                       const std::vector<KernelSpec>& known);

}  // namespace shardwright
