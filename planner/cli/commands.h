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
Command explain_command();
Command sweep_command();
Command run_command();
Command models_command();
Command machines_command();
Command validate_command();
Command report_command();
Command import_command();
Command score_command();
Command fit_command();
Command profile_command();
Command doctor_command();
Command completion_command();

/// `fit WHAT`, each in `fit_<what>_command.cc`. Of what they make: where it is to stand (InputError without --out, with
/// an example), and writing it, or with --check only telling whether it would change. The exit code.
int run_fit_kernels(const Arguments& arguments);
int run_fit_collectives(const Arguments& arguments);
int run_fit_engines(const Arguments& arguments);
int run_fit_serving(const Arguments& arguments);
std::string place_of_fit(const Arguments& arguments, const std::string& example);
int write_fit(const Arguments& arguments, const std::string& place, const std::string& text);

/// All of them, in the order of --help.
std::vector<Command> all_commands();

}  // namespace shardwright
