#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/serve/serve_detail.h"
#include "reports/format.h"

namespace shardwright {

/// What a layout, or each of the best, does with a serving workload: latencies and rates with intervals, memory, why no
/// larger batch, where times come from; links, what changes of the question do, and the command that asks for the first
/// plan again (command_text).
std::string serve_text(const ServeRequest& request, const ServeResult& result, const std::optional<ServeDetail>& detail,
                       const std::vector<std::string>& command, const TableStyle& style);

}  // namespace shardwright
