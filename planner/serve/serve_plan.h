#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "planner/plan.h"
#include "planner/serve/simulate.h"
#include "planner/serve/steady_state.h"

namespace shardwright {

/// Pools on two kinds of machine: these GPUs prefill, the question's own decode.
struct PrefillPool {
  Machine machine;
  std::int64_t gpus = 0;
};

/// The question.
struct ServeRequest {
  Model model;
  Machine machine;
  ServeEngine engine;
  ServeWorkload workload;
  ServeGoals goals;
  std::optional<std::int64_t> gpus;  ///< absent: of an estimate what its layout has, of a plan one node
  std::optional<ServeLoad> load;     ///< of a plan without `gpus`: the fewest that bear it
  ServePins pins;
  int top = 10;
  int threads = 0;                               ///< 0 = as many as there are cores
  std::optional<PrefillPool> prefill_pool = {};  ///< of a plan of pools

  const Machine& prefill_machine() const { return prefill_pool ? prefill_pool->machine : machine; }
};

/// Time of a prompt's keys and values from a rank that prefills to one that decodes, behind all `prefill_gpus`; between
/// two kinds of machine through the slower one's outermost links.
Seconds handover_time(const ServeRequest& request, Bytes kv, std::int64_t prefill_gpus);

/// What a load's requests see, played step by step.
struct UnderLoad {
  SimulatedLatencies seen;
  std::int64_t requests = 0, steps = 0, preempted = 0, refused = 0;
  bool overloaded = false;  ///< answers do not keep up: waiting grows as long as requests come
};

/// One layout with what it does, aggregated or in pools.
struct ServedLayout {
  ServeLayout layout;               ///< of pools: the decoding workers'
  std::optional<PoolLayout> pools;  ///< present exactly when prefill and decode are apart
  bool fits = false;                ///< in memory
  bool keeps_goals = false;
  std::optional<Rejection> rejection;         ///< memory, goals, or what makes it impossible
  std::optional<ServePrediction> prediction;  ///< absent when it cannot be computed
  std::optional<UnderLoad> under_load;        ///< present where a load was asked for and it fits
  std::vector<std::string> assumed;           ///< keys that the planner filled in
  std::int64_t gpus() const { return pools ? pools->gpus() : layout.gpus(); }
};

/// Of a layout that keeps the goals, at its best load, what a chart of all of them shows.
struct ServedPoint {
  ServeLayout layout;
  std::optional<PoolLayout> pools;
  std::int64_t concurrency = 0;
  double per_gpu = 0, per_user = 0;  ///< output tokens per second
};

struct ServeResult {
  std::string model, machine, engine;
  std::int64_t gpus = 0;  ///< in all
  std::optional<PrefillPool> prefill_pool = {};
  ServeWorkload workload;
  ServeGoals goals;
  std::optional<ServeLoad> load;
  bool is_estimate = false;
  SearchSummary search;             ///< of a plan only
  std::vector<ServedLayout> plans;  ///< best first; an estimate has exactly one
  /// Most tokens a second and GPU for each speed of one user, fastest user first.
  std::vector<ServedLayout> pareto;
  /// Every layout of a plan that keeps the goals, in the order of `plans` and behind them; of pools those that may be
  /// in `plans` or on the front.
  std::vector<ServedPoint> priced;
  std::vector<ServedLayout> nearest;  ///< when nothing keeps the goals: what comes nearest, or what misses least memory
};

/// The question, with no answer yet.
ServeResult empty_result(const ServeRequest& request);

/// One layout, whether it fits or not. Throws InputError where pins contradict each other.
ServeResult estimate_serving(const ServeRequest& request);

/// Every layout of the space on `gpus` GPUs, and, where no concurrency is given, every batch of batches_tried():
/// exhaustive, so the first plan is the best of them. Under a load: of the best of them, those that bear it when it is
/// played, the shortest mean latency first; without `gpus` the fewest (copies of up to 64 GPUs). tp, pp, ep and etp:
/// all that divide; attention_dp only of mixtures of experts (of other models it is dp by another name); cp as pinned,
/// else 1. Pools: workers of every size within a node, of whole nodes up to 16 of them, then of eight sizes to each
/// doubling; every pair of their layouts that another does not beat, in numbers that fill the GPUs; with
/// a PrefillPool both pools, each in workers whose size divides it. Fast ones first:
/// most output tokens a second, then by layout.
ServeResult plan_serving(const ServeRequest& request);

/// These pools, with the decoding batch that keeps goals and answers most; nothing where none does. Pools that prefill
/// with less than they must are as slow as that.
std::optional<ServedLayout> best_load(const ServeRequest& request, const PoolLayout& pools);

/// Batches of a rank up to `most`: 1, 2, 3, 4, 6, 8, 12, ..., most.
std::vector<std::int64_t> batches_tried(std::int64_t most);

/// Layouts of a copy (replicas 1) on so many GPUs that pins allow, in their order; possible ones only. Reasons against
/// the others are counted in `rejected`, if any.
std::vector<ServeLayout> copies_on(const ServeRequest& request, std::int64_t gpus,
                                   std::map<std::string, std::int64_t>* rejected = nullptr);

/// Whether a prediction keeps goals in the mean, and, if not, which it breaks.
std::optional<Rejection> broken_goal(const ServeGoals& goals, const ServePrediction& prediction);
/// The same of what a load's requests see; "load" where it is too much, or a request is too long.
std::optional<Rejection> broken_goal(const ServeGoals& goals, const UnderLoad& seen);
double value_of(const LatencySpread& spread, GoalOf of);

}  // namespace shardwright
