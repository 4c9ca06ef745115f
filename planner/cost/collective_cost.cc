#include "planner/cost/collective_cost.h"

#include <algorithm>

#include "hardware/measured_times.h"

namespace shardwright {
namespace {

/// Members of the group inside one unit of a level; all of them where the level has no limit.
std::int64_t members(const RankGroup& group, std::int64_t size, const LinkLevel& level) {
  return level.gpus == 0 ? size : group.members_within(level.gpus);
}

/// Collectives are measured inside a node; this machine's nodes may be smaller than those of the measured one.
bool may_be_measured(const CollectiveSpec& spec, const Machine& machine) {
  const std::int64_t n = spec.group.size();
  return machine.measured && n > 1 && members(spec.group, n, machine.links.front()) == n;
}

}  // namespace

std::optional<double> least_measured_slope(const CollectiveSpec& spec, const Machine& machine) {
  return may_be_measured(spec, machine) ? machine.measured->least_slope(spec) : std::nullopt;
}

KernelCost collective_cost(const CollectiveSpec& spec, const Machine& machine) {
  const std::int64_t n = spec.group.size();
  if (n <= 1) return {{0}, CostSource::datasheet, 0};
  if (may_be_measured(spec, machine)) {
    if (const auto cost = machine.measured->find(spec)) return *cost;
  }
  const auto held = static_cast<double>(spec.held.value);
  const auto ranks = static_cast<double>(n);

  double slowest = 0, latency = 0;
  std::int64_t below = 1;  // members inside one unit of the level below
  for (const LinkLevel& level : machine.links) {
    const std::int64_t here = std::max(below, members(spec.group, n, level));
    if (here == below) continue;  // no two of its units meet at this level
    const double rate = level.bandwidth.value * level.efficiency;
    double seconds = 0;
    switch (spec.kind) {
      case CollectiveKind::all_gather:
      case CollectiveKind::reduce_scatter:
        seconds = (ranks - 1) / ranks * held / (static_cast<double>(below) * rate);
        break;
      case CollectiveKind::all_reduce:
        seconds = 2 * (ranks - 1) / ranks * held / (static_cast<double>(below) * rate);
        break;
      case CollectiveKind::all_to_all:
        seconds = held * spec.crossing * static_cast<double>(here - below) / ranks / rate;
        if (spec.crossing < 1 && &level == &machine.links.front())
          seconds = held * static_cast<double>(here - 1) / static_cast<double>(here) / rate;
        break;
      case CollectiveKind::send_recv:
        seconds = held / rate;
        break;
    }
    slowest = std::max(slowest, seconds);
    const double steps =
        spec.kind == CollectiveKind::send_recv || spec.kind == CollectiveKind::all_to_all
            ? 1
            : static_cast<double>(here / below - 1) * (spec.kind == CollectiveKind::all_reduce ? 2 : 1);
    latency += steps * level.latency.value;
    below = here;
  }
  return {{slowest + latency + machine.efficiency.kernel_latency.value},
          CostSource::datasheet,
          machine.efficiency.relative_error};
}

}  // namespace shardwright
