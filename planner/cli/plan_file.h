#pragma once

#include <string>

#include "planner/cli/command_line.h"

namespace shardwright {

class YamlCursor;

/// The first plan of a file that `plan` or `estimate` wrote with --json. Throws InputError where nothing fitted.
YamlCursor first_plan(const YamlCursor& plan_result);

/// A file that `plan`, `estimate` or `explain` wrote with --json, or with --plan, as the arguments that ask the same:
/// its model, machine and workload, and the layout of its first plan. What stands on the command line, too, is taken
/// from there. Models and machines are found by name, so those of a file must be of the catalog; in one of --plan as
/// they were asked for.
Arguments arguments_of_plan(Arguments arguments, const std::string& path);

}  // namespace shardwright
