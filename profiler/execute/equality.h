#pragma once

#include <map>
#include <string>
#include <vector>

#include "profiler/execute/executor.h"

namespace shardwright {

/// What one step leaves on one rank, whole and in double precision.
struct StepResult {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients, weights;
};

/// The first `steps` steps of the same run on one rank, with the reference operators.
std::vector<StepResult> run_on_one_rank(const Programme& programme, const RunOptions& options, int steps);

/// The largest difference of a rank's own blocks to those of one rank, relative to the largest number of each whole
/// array (of a gradient to no less than 1e-3 of the largest of all gradients: one that is zero but for rounding has the
/// others' scale). Infinite for what is missing or no number.
struct Difference {
  double relative = 0;
  std::string what;  ///< "gradient of layers.0.q_proj", "layers.0.q_proj", "loss"
};
/// After a step. `loss`: Executor::loss() of it.
Difference difference(const Executor& rank, double loss, const StepResult& one_rank, Operators& operators);

}  // namespace shardwright
