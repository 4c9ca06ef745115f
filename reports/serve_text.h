#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/serve/serve_explain.h"
#include "reports/format.h"

namespace shardwright {

/// What a layout, or each of the best, does with a serving workload: latencies and rates with intervals, memory, why no
/// larger batch, where times come from; links, what changes of the question do, and the command that asks for the first
/// plan again (command_text).
std::string serve_text(const ServeRequest& request, const ServeResult& result, const std::optional<ServeDetail>& detail,
                       const std::vector<std::string>& command, const TableStyle& style);

/// The answer to `explain --serve`: where the time between two tokens and each gigabyte of a layout go, beside the best
/// of the same question (and the layout to compare with), what forbids a larger batch, and the smallest change that
/// turns it.
std::string serve_explain_text(const ServeRequest& request, const ServeExplanation& explanation,
                               const TableStyle& style);

}  // namespace shardwright
