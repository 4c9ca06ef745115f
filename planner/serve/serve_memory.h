#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "planner/serve/step_cost.h"

namespace shardwright {

/// Bytes of one GPU of the fullest stage.
struct ServeMemory {
  int stage = 0;
  Bytes weights, activations, cuda_graphs, workspace;
  Bytes kv_per_sequence;  ///< of a request at its end: prompt and whole answer, in whole pages
  Bytes pool;             ///< what the engine leaves for keys and values; 0 where nothing is left
  Bytes usable;           ///< of the GPU, without what the driver and libraries hold
  /// Sequences of a rank (of attention_dp) that run at once. Without a limit but memory, and with the engine's.
  std::int64_t fits = 0, largest_batch = 0;
  std::string reason;  ///< why no more: "memory: 41.2 GiB for keys and values, 0.31 GiB a sequence"
  bool holds_weights = true;
  Bytes needed_without_kv() const { return weights + activations + cuda_graphs + workspace; }
};

/// What of a GPU is whose, and how many requests of the workload it holds at once: their whole answers where the engine
/// reserves them, else half of each, which they hold on average.
ServeMemory serve_memory(StepPricer& pricer, const Machine& machine, const ServeEngine& engine,
                         const ServeWorkload& workload);

}  // namespace shardwright
