#pragma once

#include <string>

#include "planner/cli/command_line.h"

namespace shardwright {

/// --backend, what computes: cpu or cuda.
Option backend_option();
/// Throws InputError where there is no such backend.
std::string read_backend(const Arguments& arguments);
/// Throws InputError where this machine has not a GPU for each of the ranks that would be started on it.
void check_gpus(int ranks);

}  // namespace shardwright
