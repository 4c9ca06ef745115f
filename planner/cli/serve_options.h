#pragma once

#include <vector>

#include "planner/cli/command_line.h"
#include "planner/serve/serve_plan.h"

namespace shardwright {

/// What --serve asks besides: --isl, --osl, --concurrency, number formats, proposed tokens, promises.
std::vector<Option> serve_options();
/// Of plans and estimates besides: a load that is played, and which of its requests promises are about.
std::vector<Option> load_options();
/// Of a plan besides: pools on two kinds of machine.
std::vector<Option> prefill_pool_options();
/// Of estimates besides: what the GPUs do.
Option phase_option();

/// InputError, one line, for an option of `command` that goes with the other of --train and --serve:
/// "--isl: needs --serve", "--global-batch: belongs to training, not to --serve".
void check_serve_mix(const Arguments& arguments);

/// The question of `plan`, `estimate` and `explain` with --serve; `pins` is the text of --layout or --pin, `what` that
/// flag. Throws InputError.
ServeRequest read_serve_question(const Arguments& arguments, const std::string& pins, const std::string& what);

/// The three commands with --serve; the exit code.
int run_plan_serve(const Arguments& arguments);
int run_estimate_serve(const Arguments& arguments);
int run_explain_serve(const Arguments& arguments);

}  // namespace shardwright
