#pragma once

#include "planner/validate.h"

namespace shardwright {

/// Fills `summary`, `ranking` and `out_of_memory` from `rows`. Suspect rows are left out of all three.
///
/// Errors: over rows with a relative error, for all sources ("" first) and for each, in the order of kind, metric,
/// source. The median of an even count is the mean of the middle two; p90 is the smallest value that nine in ten do not
/// exceed.
///
/// Ranking: rows of one kind and family, by that metric of speed that most of them have (step time first when equal).
/// Kendall's tau = (pairs in the right order - pairs in the wrong order) / pairs; pairs measured less than 2 % apart
/// are ties and do not count, a pair predicted equal is neither right nor wrong. A family without a pair that counts is
/// left out. Regret = time of the predicted best / time of the measured best - 1.
///
/// Out of memory: training and inference rows by id; one is positive when a metric of it is "oom".
void summarise(Validation& validation);

}  // namespace shardwright
