#pragma once

#include <string>

#include "planner/explain.h"
#include "reports/format.h"
#include "reports/prediction_text.h"

namespace shardwright {

/// The answer to `explain` for people: where each second and each gigabyte of a layout goes, beside the best of the
/// same question (or the layout to compare with), and the smallest change that turns it. `operators`: every operator
/// and every tensor, too.
std::string explain_text(const PlanRequest& request, const Explanation& explanation, const AskedAs& asked,
                         bool operators, const TableStyle& style = {});

}  // namespace shardwright
