#include <algorithm>
#include <set>

#include "planner/shard/blocks.h"
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

template <typename Over, typename Between>
void Groups::make(const Programme& programme, int stage, const Over& over, const Between& between) {
  for (AxisSet axes : axes_of(programme)) over_[axes] = over(axes);
  std::set<std::vector<int>> shared;
  for (const auto& part : programme.parts)
    for (const Programme::Instance& instance : part)
      for (const WeightState& w : programme.graphs[static_cast<std::size_t>(instance.graph)].sharded.weights) {
        const auto stages = programme.stages_with(programme.weight_name(instance, w.tensor));
        if (stages.size() > 1) shared.insert(stages);
      }
  for (const std::vector<int>& stages : shared) {
    const auto own = std::find(stages.begin(), stages.end(), stage);
    between_[stages] = between(stages, own == stages.end() ? -1 : own - stages.begin());
  }
}

Groups::Groups(const Programme& programme, Communicator& world) : world_(world) {
  const std::int64_t line = programme.line_of(world.rank());
  const int stage = programme.stage_of(world.rank());
  const auto over = [&](AxisSet axes) {
    return world.split(static_cast<int>(programme.rank_of(stage, members_over(programme.mesh, line, axes)[0])));
  };
  const auto between = [&](const std::vector<int>& stages, std::int64_t own) {
    // Those outside stay alone.
    const std::int64_t first = programme.rank_of(stages[0], line);
    return world.split(static_cast<int>(own >= 0 ? first : programme.ranks() + world.rank()));
  };
  make(programme, stage, over, between);
}

Groups::Groups(const Programme& programme, Communicator& world, std::int64_t lone_rank, Operators& operators)
    : world_(world) {
  const std::int64_t line = programme.line_of(lone_rank);
  const auto over = [&](AxisSet axes) {
    const auto members = members_over(programme.mesh, line, axes);
    const auto own = std::find(members.begin(), members.end(), line) - members.begin();
    return make_lone_communicator(own, static_cast<std::int64_t>(members.size()), operators);
  };
  const auto between = [&](const std::vector<int>& stages, std::int64_t own) {
    return make_lone_communicator(std::max<std::int64_t>(own, 0),
                                  own < 0 ? 1 : static_cast<std::int64_t>(stages.size()), operators);
  };
  make(programme, programme.stage_of(lone_rank), over, between);
}

Communicator& Groups::over(AxisSet axes) const { return *over_.at(axes); }
Communicator& Groups::between(const std::vector<int>& stages) const { return *between_.at(stages); }

}  // namespace shardwright
