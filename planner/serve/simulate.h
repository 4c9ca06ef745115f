#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "planner/serve/arrivals.h"
#include "planner/serve/step_table.h"

namespace shardwright {

/// What a worker's ranks obey; ranks of attention data parallelism step together, as long as the slowest takes.
struct WorkerRules {
  int workers = 1, ranks = 1;
  std::int64_t max_sequences = 256, max_tokens = 8192;  ///< of a rank's step
  bool chunked_prefill = true, prefill_first = false, reserves_answers = false;
  std::int64_t block_tokens = 1;
  /// Tokens whose keys and values a rank holds. A request takes whole blocks: of all its tokens where answers are
  /// reserved, else of those it has; where those of the next step do not fit, the last that came goes back to the
  /// queue's head and is prefilled again (in a pool that only decodes: read back, at no cost).
  std::int64_t kv_tokens = INT64_MAX;
  double gained = 1;           ///< tokens a sequence gains in a step
  StepTable* steps = nullptr;  ///< shared: not from two threads
};

/// Workers that prefill and decode (continuous batching), or, with `decode`, two pools: `workers` prefill, and hand
/// keys and values on, each prompt `handover_seconds` and its tokens' time. A request goes to the rank that has least.
struct ServingSystem {
  WorkerRules workers;
  std::optional<WorkerRules> decode;
  double handover_seconds = 0, handover_seconds_per_token = 0;
};

struct SimulatedLoad {
  std::vector<Arrival> arrivals;  ///< in the order of time
  std::optional<std::int64_t>
      clients;  ///< a closed loop: times are of no matter, each asks when its answer is complete
  std::optional<double> until_seconds;  ///< stop there; else when all are answered
};

/// Of one request, in the order of their arrival; NaN where it was not answered.
struct SimulatedRequest {
  double arrived, first_token, done;
  std::int32_t answer;
  double ttft() const { return first_token - arrived; }
  double tpot() const { return answer > 1 ? (done - first_token) / (answer - 1) : 0; }
  double latency() const { return done - arrived; }
};

struct Simulation {
  std::vector<SimulatedRequest> requests;
  double seconds = 0;                                      ///< simulated
  std::int64_t steps = 0;                                  ///< of all ranks
  std::int64_t arrived = 0, answered = 0, refused = 0;     ///< refused: never fits a rank
  std::int64_t waiting = 0, running = 0, handed_over = 0;  ///< at the end, counted where they are
  std::int64_t preempted = 0;                              ///< times
  std::int64_t most_kv_tokens = 0;                         ///< of any rank at any time, of the pool that decodes
};

/// Plays every request through every step: when it is let in, when its prompt is prefilled, whole or in chunks, each
/// step's batch and its time. A step costs no more where more sequences run: requests that end are found by the step in
/// which they do. Deterministic.
Simulation simulate(const ServingSystem& system, const SimulatedLoad& load);

/// Over requests that were answered, without the first `warm_up` share of them.
struct LatencySpread {
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0;
};
struct SimulatedLatencies {
  LatencySpread ttft, tpot, latency;
  double answers_per_second = 0;  ///< from the end of the warm-up to the last arrival
  double arrivals_per_second = 0;
  std::int64_t counted = 0;
};
SimulatedLatencies latencies_of(const Simulation& simulation, double warm_up);

/// Of values in any order, between neighbours on a line; NaN of none.
double percentile(std::vector<double>& values, double share);

}  // namespace shardwright
