#pragma once

#include <string>
#include <vector>

#include "planner/cli/command_line.h"
#include "planner/plan.h"

namespace shardwright {

/// --ranks, --steps, --communicator: how a plan is run.
std::vector<Option> running_options();

/// --run and --trial of `plan`: runs the first plan of the answer. The exit code.
std::vector<Option> run_at_once_options();
int run_at_once(const Arguments& arguments, const PlanRequest& request, const PlanResult& result);

/// Runs the plan of a file on this machine's ranks, or as one of them where this process was started as such. The exit
/// code. Throws InputError, and OutputError where the machine fails.
int run_plan(const std::string& path, const Arguments& arguments);

}  // namespace shardwright
