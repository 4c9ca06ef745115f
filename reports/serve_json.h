#pragma once

#include <string>

#include "planner/serve/serve_plan.h"

namespace shardwright {

/// The `plan_result` of a serving question; see json.h.
std::string serve_result_json(const ServeResult& result);

}  // namespace shardwright
