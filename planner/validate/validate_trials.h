#pragma once

#include <string>
#include <vector>

#include "hardware/yaml_cursor.h"
#include "planner/validate/validate.h"

namespace shardwright {

/// Whether a file is what runs found, not published rows.
bool is_trial(const YamlCursor& top);

/// What runs found, each number beside what was predicted of it before the run; nothing is predicted anew.
///
/// Of `run --json` (schema shardwright.trial/1): kind `trial`, the step and what it was spent on, where both are above
/// 0; kind `operator`, metric `seconds`, the operators of the watched rank's step, with their kernels' family as the
/// span. Only the step has an interval. Of a whole collection (profiler/trial, schema shardwright.loop_trial/1): its
/// steps alone. Void rounds were left out when they were written: a run without a step has no row of it. Throws
/// InputError.
std::vector<ValidationRow> rows_of_trial(const YamlCursor& top);

}  // namespace shardwright
