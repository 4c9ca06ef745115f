#pragma once

#include <cstdint>
#include <string>

#include "planner/plan.h"
#include "profiler/execute/trial.h"
#include "reports/format.h"

namespace shardwright {

/// A plan that was run, beside its price as the executor's.
struct TrialReport {
  PlanResult plan;  ///< an estimate of the layout for the engine `shardwright`
  Trial trial;
  std::uint64_t seed = 1;
  std::string digest;  ///< of its graph; "" where the plan had none
  int cores = 0, watched_stage = 0;
};

std::string trial_text(const TrialReport& report, const TableStyle& style);

}  // namespace shardwright
