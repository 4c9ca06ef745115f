#pragma once

#include <optional>
#include <string>

#include "planner/plan_detail.h"
#include "reports/format.h"
#include "reports/prediction_text.h"

namespace shardwright {

/// The answer to `plan` for people: the ranked layouts, then why the best is the best, what the search did, and what to
/// ask next; or, when nothing fits, by how much. `detail`: what stands behind the first. No times of this run: the same
/// question has the same text.
std::string plan_table(const PlanRequest& request, const PlanResult& result, const AskedAs& asked,
                       const std::optional<PlanDetail>& detail = {}, const TableStyle& style = {});

}  // namespace shardwright
