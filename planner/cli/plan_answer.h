#pragma once

#include <string>
#include <vector>

#include "planner/cli/command_line.h"
#include "planner/plan.h"

namespace shardwright {

/// What `plan` and `estimate` end with: `text` to stdout, and where they are asked for --json and --html, which have
/// what stands behind the first plan, too. Throws OutputError.
void write_plan_answer(const Arguments& arguments, const PlanRequest& request, const PlanResult& result,
                       const std::string& text);

}  // namespace shardwright
