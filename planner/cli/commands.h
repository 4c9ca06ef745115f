#pragma once

#include <vector>

#include "planner/cli/command_line.h"

namespace shardwright {

/// What the program ends with; main knows the last two.
enum ExitCode {
  kDone = 0,
  kNothingFits = 1,  ///< of what was asked for; the answer is printed all the same
  kInputWrong = 2,
  kMachineFailed = 3
};

/// Each in `<name>_command.cc`.
Command plan_command();
Command estimate_command();
Command models_command();
Command machines_command();
Command validate_command();
Command import_command();
Command score_command();
Command fit_command();
Command completion_command();

/// `fit engines`
int run_fit_engines(const Arguments& arguments);

/// All of them, in the order of --help.
std::vector<Command> all_commands();

}  // namespace shardwright
