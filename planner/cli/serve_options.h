#pragma once

#include <vector>

#include "planner/cli/command_line.h"
#include "planner/serve/serve_plan.h"

namespace shardwright {

/// What --serve asks besides: --isl, --osl, --concurrency, number formats, proposed tokens, promises, a load.
std::vector<Option> serve_options();
/// Of estimates besides: what the GPUs do.
/// Of a plan: pools on two kinds of machine.
std::vector<Option> prefill_pool_options();
Option phase_option();

/// InputError, one line, for an option of `command` that goes with the other of --train and --serve:
/// "--isl: needs --serve", "--global-batch: belongs to training, not to --serve".
void check_serve_mix(const Arguments& arguments);

/// The question of `plan --serve` and `estimate --serve`; `pins` is the text of --layout or --pin, `what` that flag.
/// Throws InputError.
ServeRequest read_serve_question(const Arguments& arguments, const std::string& pins, const std::string& what);

/// The two commands with --serve; the exit code.
int run_plan_serve(const Arguments& arguments);
int run_estimate_serve(const Arguments& arguments);

}  // namespace shardwright
