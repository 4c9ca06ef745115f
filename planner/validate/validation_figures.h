#pragma once

#include <string>
#include <vector>

#include "hardware/yaml_cursor.h"
#include "planner/validate/validate.h"

namespace shardwright {

/// The summaries of a validation, a line for each metric and source, to be kept: tests/validation/figures.yaml.
std::string figures_yaml(const Validation& validation);

/// What a validation says otherwise than the figures that were kept, one sentence each: "training/mfu/grid: median was
/// 0.0789, is 0.0912"; figures that are gone or new, too. Counts of rows must be the same; of all else, rounding aside,
/// 0.002 and 1 % of what it was is let pass. Throws InputError.
std::vector<std::string> moved_figures(const YamlCursor& kept, const Validation& now);

}  // namespace shardwright
