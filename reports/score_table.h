#pragma once

#include <string>
#include <vector>

#include "hardware/leave_out.h"
#include "reports/format.h"

namespace shardwright {

/// Errors of a machine's measurements about what was left out of them, a table for each family.
std::string score_table(const std::string& machine, const std::vector<LeaveOutError>& errors,
                        const TableStyle& style = {});

}  // namespace shardwright
