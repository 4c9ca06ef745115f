#pragma once

#include <optional>
#include <string>

#include "planner/plan_detail.h"
#include "reports/format.h"

namespace shardwright {

/// The answer to `estimate` for people: one layout, what was filled in, whether it fits, its time and memory by part
/// and by stage. `detail`: of that layout, where it can be computed.
std::string estimate_text(const PlanRequest& request, const PlanResult& result, const std::optional<PlanDetail>& detail,
                          const TableStyle& style = {});

}  // namespace shardwright
