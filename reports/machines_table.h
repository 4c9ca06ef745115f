#pragma once

#include <string>
#include <vector>

#include "hardware/machine.h"
#include "reports/format.h"

namespace shardwright {

/// One line a machine: memory, rates, links.
std::string machines_table(const std::vector<Machine>& machines, const TableStyle& style = {});

/// One machine, with every rate and link level.
std::string machine_text(const Machine& machine, const TableStyle& style = {});

}  // namespace shardwright
