#pragma once

#include <string>

#include "planner/serve/serve_plan.h"
#include "reports/format.h"

namespace shardwright {

/// What a layout, or each of the best, does with a serving workload: latencies and rates with intervals, memory, why no
/// larger batch, where times come from.
std::string serve_text(const ServeRequest& request, const ServeResult& result, const TableStyle& style);

}  // namespace shardwright
