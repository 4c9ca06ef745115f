#pragma once

#include <optional>
#include <string>

#include "planner/cli/command_line.h"
#include "planner/plan_detail.h"

namespace shardwright {

/// Whether --json or --html is asked for: both have what stands behind the first plan, too.
bool asks_for_detail(const Arguments& arguments);

/// What `plan` and `estimate` end with: `text` to stdout, and what --json and --html ask for. Throws OutputError.
void write_plan_answer(const Arguments& arguments, const PlanRequest& request, const PlanResult& result,
                       const std::optional<PlanDetail>& detail, const std::string& text);

}  // namespace shardwright
