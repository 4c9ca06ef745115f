#pragma once

#include <string>
#include <vector>

#include "planner/cli/command_line.h"

namespace shardwright {

/// --ranks, --steps, --communicator: how a plan is run.
std::vector<Option> running_options();

/// Runs the plan of a file on this machine's ranks, or as one of them where this process was started as such. The exit
/// code. Throws InputError, and OutputError where the machine fails.
int run_plan(const std::string& path, const Arguments& arguments);

}  // namespace shardwright
