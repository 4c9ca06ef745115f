#pragma once

#include <string>
#include <vector>

#include "planner/plan.h"
#include "reports/format.h"

namespace shardwright {

/// The answer to `estimate` for people: one layout, what was filled in, whether it fits, its time and memory by part
/// and by stage. `tensors`: those of its fullest stage (memory_items), or none where the layout cannot be computed.
std::string estimate_text(const PlanRequest& request, const PlanResult& result, const std::vector<MemoryItem>& tensors,
                          const TableStyle& style = {});

}  // namespace shardwright
