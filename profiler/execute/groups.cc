#include <algorithm>
#include <set>

#include "planner/blocks.h"
#include "profiler/execute/mover.h"

namespace shardwright {
namespace {

void join(std::set<AxisSet>& all, const ReshardSteps& steps) {
  for (int k = 0; k < steps.count; ++k)
    if (steps.steps[k].kind != ReshardStep::slice) all.insert(steps.steps[k].axes);
}

/// Every set of axes over which some graph moves something.
std::set<AxisSet> axes_of(const Programme& programme) {
  std::set<AxisSet> all;
  for (const RunGraph& g : programme.graphs) {
    for (const Node& n : g.sharded.nodes) {
      join(all, n.steps);
      if (n.ring) all.insert(n.ring);
    }
    for (const WeightState& w : g.sharded.weights) {
      join(all, w.reduction);
      const Value& value = g.sharded.value(w.value);
      const AxisSet cut =
          static_cast<AxisSet>(g.says.shard_axes[static_cast<std::size_t>(w.tensor)] & ~value.placement.sharded());
      if (g.says.zero > 0 && cut) all.insert(cut);
      // Of a weight with several uses: what is partial in one of them is in their sum.
      if (w.gradient < 0) continue;
      const AxisSet partial = g.sharded.value(w.gradient).placement.partial;
      for (const RunGraph& other : programme.graphs)
        for (const WeightState& also : other.sharded.weights) {
          if (also.gradient < 0 || other.graph.tensor(also.tensor).name != g.graph.tensor(w.tensor).name) continue;
          const auto both = static_cast<AxisSet>(partial | other.sharded.value(also.gradient).placement.partial);
          if (const auto scatter = static_cast<AxisSet>(both & cut); scatter && g.says.zero > 0) all.insert(scatter);
          const auto rest = static_cast<AxisSet>(g.says.zero > 0 ? both & ~cut : both);
          if (rest) all.insert(rest);
        }
    }
  }
  return all;
}

}  // namespace

Groups::Groups(const Programme& programme, Communicator& world) : world_(world) {
  const std::int64_t line = programme.line_of(world.rank());
  const int stage = programme.stage_of(world.rank());
  for (AxisSet axes : axes_of(programme))
    over_[axes] = world.split(static_cast<int>(programme.rank_of(stage, members_over(programme.mesh, line, axes)[0])));
  std::set<std::vector<int>> shared;
  for (const auto& part : programme.parts)
    for (const Programme::Instance& instance : part)
      for (const WeightState& w : programme.graphs[static_cast<std::size_t>(instance.graph)].sharded.weights) {
        const auto stages = programme.stages_with(programme.weight_name(instance, w.tensor));
        if (stages.size() > 1) shared.insert(stages);
      }
  for (const std::vector<int>& stages : shared) {
    const bool inside = std::find(stages.begin(), stages.end(), stage) != stages.end();
    // Those outside stay alone.
    const std::int64_t first = programme.rank_of(stages[0], line);
    between_[stages] = world.split(static_cast<int>(inside ? first : programme.ranks() + world.rank()));
  }
}

Communicator& Groups::over(AxisSet axes) const { return *over_.at(axes); }
Communicator& Groups::between(const std::vector<int>& stages) const { return *between_.at(stages); }

}  // namespace shardwright
