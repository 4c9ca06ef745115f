#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "planner/cli/command_line.h"
#include "planner/plan.h"

namespace shardwright {

/// --plan FILE: the first plan of an answer, for `run`. Written where it can be computed, whether it fits or not.
Option plan_option();
void write_plan(const Arguments& arguments, const PlanRequest& request, const PlanResult& result);

/// A plan as `run` takes it: the layout priced for the executor, overlapping nothing.
struct PlanToRun {
  PlanRequest request;              ///< its precision is what the backend computes the plan in: cores in fp32
  DataType asked = DataType::fp32;  ///< the plan's own
  PlanResult priced;                ///< an estimate; its first plan has a prediction
  std::uint64_t seed = 1;
  std::string digest;           ///< of its graph; "" where the file has none
  std::string measured_folder;  ///< with what was measured on its machine; "" where nothing was
};
/// A file of --plan, or of --json of `plan` or `estimate`. Throws InputError: what cannot be run, and a plan whose
/// graph this program makes otherwise.
PlanToRun read_plan(const std::string& path, const Arguments& arguments);

}  // namespace shardwright
