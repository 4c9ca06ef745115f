#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "planner/plan_detail.h"

namespace shardwright {

// What JSON of training and of serving says of machines alike.

nlohmann::ordered_json machine_json(const Machine& machine);
nlohmann::ordered_json axes_json(const std::vector<AxisLinks>& axes);

}  // namespace shardwright
