#pragma once

#include "planner/serve/steady_state.h"

namespace shardwright {

/// Workers of one pool by themselves, as busy as they can be (w.phase; not `both`).
///
/// Prefill: each rank's step has as many whole prompts as max_tokens holds, at least one (cut into chunks where it is
/// longer), step after step; cached tokens are not computed again, but count as input. Every prompt gains its first
/// token. No waiting: ttft is a step's.
/// Decode: `concurrency` sequences, or as many as fit, each at half of its answer, while others prefill elsewhere:
///   output = sequences / tpot,   tpot = step / gained
ServePrediction one_phase(StepTimes& times, const Machine& machine, const ServeWorkload& w);

}  // namespace shardwright
