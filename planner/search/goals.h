#pragma once

#include <optional>
#include <vector>

#include "planner/plan.h"
#include "planner/search/money.h"

namespace shardwright {

/// What a run must keep to.
struct RunGoal {
  RunQuestion run;
  std::optional<double> days, budget;  ///< at least one; budget: of this run, in the currency of its price
};

struct FewestGpus {
  std::vector<TriedGpus> tried;       ///< ascending; when one reaches the goal, the fewest that does is in it
  std::optional<PlanRequest> answer;  ///< the question with the fewest GPUs; nothing where none reaches it
  std::int64_t least = 0;             ///< fewer cannot: they would have to compute faster than their peak rate
  std::int64_t apart = 0;             ///< the counts tried below the answer are multiples of this
  bool beyond_peak = false;           ///< no number can: even at their peak rate GPUs cost more than the budget
};

/// At most so many GPUs are tried.
inline constexpr std::int64_t kMostGpusTried = std::int64_t{1} << 17;
/// And at most so many counts between the least and one that reaches the goal, all of whole nodes: more are thinned out
/// evenly, to multiples of a power of two of nodes (FewestGpus::apart).
inline constexpr std::int64_t kMostCountsTried = 64;

/// The fewest GPUs, in whole nodes, that reach `goal` with the fastest layout that fits. `request`: its `gpus` is not
/// looked at. Powers of two of nodes are planned until one reaches the goal (or is only dearer than the one before it,
/// and above the budget), then what lies below it, from the least on. With more GPUs a run is not always shorter (they
/// may not divide), so all of those are tried. Throws InputError as plan does, where a pin holds for no count.
FewestGpus fewest_gpus(const PlanRequest& request, const RunGoal& goal);

/// The longest sequence, a multiple of the request's, with which some layout fits; the batch keeps its number of
/// sequences. Memory grows with the sequence, so the multiple is found by doubling and then halving; lengths above
/// `most` are not tried. Nothing where not even the request's own fits.
std::optional<std::int64_t> longest_sequence(const PlanRequest& request, std::int64_t most);

}  // namespace shardwright
