#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hardware/leave_out.h"
#include "hardware/machine.h"
#include "models/model.h"
#include "planner/explain.h"
#include "planner/plan.h"
#include "planner/validate.h"
#include "reports/trial_text.h"

namespace shardwright {

/// The program's version, "0.1.0".
std::string_view version();

// Files for programs: `schema` ("shardwright.<kind>/1") and `shardwright_version` first, units in key names, keys in a
// fixed order, a newline at the end. What is not known has no key.

std::string plan_result_json(const PlanResult& result);  ///< of `plan` and `estimate`
std::string explanation_json(const PlanRequest& request, const Explanation& explanation);
std::string models_json(const std::vector<Model>& models);
std::string machines_json(const std::vector<Machine>& machines);
std::string validation_json(const Validation& validation);
/// A plan to be run: all that it takes to make its graphs again. `machine`: as it was asked for.
struct PlanFile {
  const PlanResult& result;
  const Model& model;
  std::string machine, digest;
  std::uint64_t seed = 1;
};
std::string plan_file_json(const PlanFile& plan);
std::string trial_json(const TrialReport& report);
std::string score_json(const std::string& machine, const std::vector<LeaveOutError>& errors);

}  // namespace shardwright
