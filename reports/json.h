#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/leave_out.h"
#include "hardware/machine.h"
#include "models/model.h"
#include "planner/explain.h"
#include "planner/plan.h"
#include "planner/plan_detail.h"
#include "planner/validate/validate.h"
#include "profiler/doctor.h"
#include "profiler/journal.h"
#include "reports/trial_text.h"

namespace shardwright {

/// The program's version, "0.1.0".
std::string_view version();

// Files for programs: `schema` ("shardwright.<kind>/1") and `shardwright_version` first, units in key names, keys in a
// fixed order, a newline at the end. What is not known has no key.

std::string plan_result_json(const PlanResult& result);  ///< of `plan` and `estimate`
/// The same with what stands behind the first plan, under "detail"; `estimate_command`: a shell's line that prices it.
std::string plan_result_json(const PlanResult& result, const PlanDetail& detail, const std::string& estimate_command);
std::string explanation_json(const PlanRequest& request, const Explanation& explanation);
std::string models_json(const std::vector<Model>& models);
std::string machines_json(const std::vector<Machine>& machines);
std::string validation_json(const Validation& validation);
/// A plan to be run: all that it takes to make its graphs again. `model_asked`, `machine`: as they were asked for.
struct PlanFile {
  const PlanResult& result;
  const Model& model;
  std::string model_asked, machine, digest;
  std::uint64_t seed = 1;
};
std::string plan_file_json(const PlanFile& plan);
std::string trial_json(const TrialReport& report);
std::string score_json(const std::string& machine, const std::vector<LeaveOutError>& errors);

/// What a profile has of a machine; `rows` by the text of their question.
std::string profile_json(const std::map<std::string, JournalRow>& rows, const std::string& machine);
std::string doctor_json(const Diagnosis& diagnosis);

}  // namespace shardwright
