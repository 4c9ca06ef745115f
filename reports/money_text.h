#pragma once

#include <string>
#include <vector>

#include "planner/plan.h"
#include "reports/format.h"

namespace shardwright {

/// What a whole run takes: steps, days, GPU-hours, price; failures, or that they are not modelled.
std::string run_text(const RunCost& run, std::int64_t gpus, const TableStyle& style);

/// Numbers of GPUs that were tried, and which is the fewest that reaches the goal.
std::string tried_text(const std::vector<TriedGpus>& tried, const TableStyle& style);

/// Which length was found.
std::string longest_sequence_text(const PlanResult& result, const TableStyle& style);

}  // namespace shardwright
