#pragma once

#include <string>

#include "planner/plan.h"

namespace shardwright {

/// A list of tasks for a profiler: one question a line, in its text form (kernel_spec.h), behind a line of remarks.
/// What starts with # is a remark. `result.unmeasured` must be there.
std::string unmeasured_text(const PlanResult& result);

}  // namespace shardwright
