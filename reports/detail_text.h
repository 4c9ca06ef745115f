#pragma once

#include <string>

#include "planner/plan_detail.h"
#include "reports/format.h"

namespace shardwright {

/// "Machine: 80.0 GiB a GPU, 78.2 GiB usable, 3.35 TB/s; 989 TFLOP/s in bf16; links of a GPU: node 450 GB/s, rail 50.0
/// GB/s." and an empty line; "" of a machine without a name.
std::string machine_paragraph(const Machine& machine, const TableStyle& style);

/// "Links: tp 8 node; dp 64 node (4 of them), rail.": outer links after inner ones; "Links of decode: ..." of a pool.
std::string links_text(const std::vector<AxisLinks>& axes, const TableStyle& style, const std::string& pool = "");

/// What stands behind a layout's prediction: compute by kind of kernel, waiting of the stages, the largest tensors of
/// the fullest stage, the longest kernels with their place under the roofline and the source of their times, links, and
/// what a change of the question does to it.
std::string detail_text(const Prediction& prediction, const PlanDetail& detail, const TableStyle& style);

}  // namespace shardwright
