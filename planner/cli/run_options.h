#pragma once

#include <optional>
#include <vector>

#include "planner/cli/command_line.h"
#include "planner/plan.h"
#include "planner/search/goals.h"

namespace shardwright {

/// What a whole run takes and costs: --tokens, --gpu-hour-price, --experiments, failures and checkpoints.
std::vector<Option> run_options();
/// Nothing without --tokens. --gpu-hour-price becomes the machine's price, with or without. Throws InputError.
std::optional<RunQuestion> read_run(const Arguments& arguments, PlanRequest& request);
/// Fills result.run where the first plan fits.
void add_run(const std::optional<RunQuestion>& question, PlanResult& result);

/// What a plan looks for besides: --deadline-days, --budget, --longest-sequence.
std::vector<Option> goal_options();
/// Nothing without one of the first two. Throws InputError.
std::optional<RunGoal> read_goal(const Arguments& arguments, const std::optional<RunQuestion>& run);

}  // namespace shardwright
