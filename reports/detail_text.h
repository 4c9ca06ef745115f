#pragma once

#include <string>

#include "planner/plan_detail.h"
#include "reports/format.h"

namespace shardwright {

/// What stands behind a layout's prediction: compute by kind of kernel, waiting of the stages, the largest tensors of
/// the fullest stage, the longest kernels with their place under the roofline and the source of their times, links, and
/// what a change of the question does to it.
std::string detail_text(const Prediction& prediction, const PlanDetail& detail, const TableStyle& style);

}  // namespace shardwright
