#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "planner/plan.h"
#include "profiler/execute/calibrate.h"
#include "profiler/execute/trial.h"
#include "reports/format.h"

namespace shardwright {

/// What a run told the folder of its machine.
struct CalibrationReport {
  std::string file;     ///< that was written, where `run` found something
  std::string refused;  ///< "", or why the run tells nothing
  CalibratedRun run;
};

/// A plan that was run, beside its price as the executor's.
struct TrialReport {
  PlanResult plan;  ///< an estimate of the layout for the engine `shardwright`
  Trial trial;
  std::uint64_t seed = 1;
  std::string digest;  ///< of its graph; "" where the plan had none
  int cores = 0, watched_stage = 0;
  std::optional<CalibrationReport> calibration = {};  ///< where it was asked for
  std::int64_t model_layers = 0;                      ///< that are left of the model; 0: all
  bool has_experts = false;
  DataType asked = DataType::fp32;  ///< the plan's precision
};

std::string trial_text(const TrialReport& report, const TableStyle& style);

}  // namespace shardwright
