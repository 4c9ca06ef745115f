#pragma once

#include <string>

#include "planner/validate/validate.h"
#include "reports/format.h"

namespace shardwright {

/// Errors by metric and source (of kernels and collectives the time's, also where a rate was published), ranking, out
/// of memory, and what was skipped why; `verbose` names each skipped row.
std::string validation_table(const Validation& validation, bool verbose, const TableStyle& style = {});

}  // namespace shardwright
