#pragma once

#include <string>

#include "planner/serve/serve_explain.h"
#include "reports/format.h"

namespace shardwright {

/// The answer to `explain --serve`: where the time between two tokens and each gigabyte of a layout go, beside the best
/// of the same question (and the layout to compare with), what forbids a larger batch, and the smallest change that
/// turns it.
std::string serve_explain_text(const ServeRequest& request, const ServeExplanation& explanation,
                               const TableStyle& style);

}  // namespace shardwright
