#pragma once

#include "planner/validate/validate.h"

namespace shardwright {

/// Of an even count the mean of the middle two; 0 of none.
double median(std::vector<double> values);

/// Neither suspect nor of trust C (second-hand, partly inferred).
bool is_scored(const ValidationRow& row);

/// Fills all but `skipped` from `rows`. Rows that are not scored are left out of it all.
///
/// Errors: over rows with a relative error, for all sources ("" first), for each span of collectives and for each
/// source, in the order of kind, metric, source, span. Of kernels and collectives it is the time's, also where a rate
/// was published: half the rate is an error of +100 %, not of -50 %. Rates of rows that state their time, too, are not
/// counted again. The median of an even count is the mean of the middle two; p90 is the smallest value that nine in ten
/// do not exceed.
///
/// Serving: inference rows with a relative error, by their engine and model; of an engine, all models first.
///
/// Ranking: training and inference rows of one kind and family, by that metric of speed that most of them have (step
/// time first when equal). Kendall's tau = (pairs in the right order - pairs in the wrong order) / pairs; pairs
/// measured less than 2 % apart are ties and do not count, a pair predicted equal is neither right nor wrong. A family
/// without a pair that counts is left out. A family is incomplete where a row of it leaves micro_batch or recompute to
/// the planner, or where two rows of one layout and prediction were measured 2 % apart or more: what tells them apart
/// is not in their keys. Regret = time of the predicted best / time of the measured best - 1.
///
/// Out of memory: training and inference rows by id; one is positive when a metric of it is "oom".
void summarise(Validation& validation);

}  // namespace shardwright
