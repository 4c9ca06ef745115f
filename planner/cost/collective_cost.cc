#include "planner/cost/collective_cost.h"

#include <algorithm>
#include <array>
#include <boost/container/static_vector.hpp>
#include <cassert>
#include <cmath>
#include <optional>

#include "hardware/collective_curves.h"
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

constexpr std::array kRings = {CollectiveWay::ring_simple, CollectiveWay::ring_ll128, CollectiveWay::ring_ll};
/// What DeepEP and HybridEP reach: dispatch and combine differ little, and combine moves most.
constexpr std::array kRows = {CollectiveWay::combine};
constexpr std::array kSends = {CollectiveWay::direct_simple, CollectiveWay::direct_ll};

/// A level at which members of the group meet: so many inside one unit of the level below, and inside one of its own.
struct Crossing {
  const LinkLevel* level = nullptr;
  const FabricCurves* curves = nullptr;  // null: the level has none
  double below = 1, here = 1;
  double seconds_per_byte = 0;  // of one member at the whole rate
  TransferCurve plain = {};     // without curves a launch, the level's latency and its efficiency, whatever the way
};

/// A collective over the levels of a machine's links, ready to be costed in one way or another.
class Collective {
 public:
  Collective(const CollectiveSpec& spec, const Machine& machine)
      : spec_(spec),
        machine_(machine),
        ranks_(static_cast<double>(spec.group.size())),
        held_(static_cast<double>(spec.held.value)) {
    std::int64_t below = 1;
    for (const LinkLevel& level : machine.links) {
      const std::int64_t here = std::max(below, members(spec.group, spec.group.size(), level));
      if (here == below) continue;  // no two of its units meet at this level
      if (crossings_.size() == crossings_.capacity()) break;
      add(level, static_cast<double>(below), static_cast<double>(here));
      below = here;
    }
  }

  double seconds() const {
    switch (spec_.kind) {
      case CollectiveKind::all_reduce:
        return all_reduce();
      case CollectiveKind::all_gather:
      case CollectiveKind::reduce_scatter:
        return ring(1);
      case CollectiveKind::all_to_all:
        return all_to_all();
      case CollectiveKind::send_recv:
        return send_recv();
    }
    assert(false && "a collective without a cost");
    return 0;
  }

  double relative_error() const {
    double error = 0;
    for (const Crossing& c : crossings_)
      error = std::max(error, c.level->curves ? c.level->curves->relative_error : machine_.efficiency.relative_error);
    return error;
  }

 private:
  void add(const LinkLevel& level, double below, double here) {
    Crossing& c = crossings_.emplace_back();
    c.level = &level;
    c.curves = level.curves.get();
    c.below = below;
    c.here = here;
    c.seconds_per_byte = 1 / level.bandwidth.value;
    if (!c.curves) c.plain = {machine_.efficiency.kernel_latency.value, level.latency.value, level.efficiency, 0};
    if (c.curves && c.curves->crowding > 0) c.seconds_per_byte *= std::pow(here / 2, c.curves->crowding);
  }

  /// Null where the level has curves, but not of this way.
  static const TransferCurve* curve(CollectiveWay way, const Crossing& at) {
    if (!at.curves) return &at.plain;
    const auto& own = (*at.curves)[way];
    return own ? &*own : nullptr;
  }
  /// Only of levels with curves.
  static const TransferCurve* own_way(CollectiveWay way, const Crossing& at) {
    return at.curves ? curve(way, at) : nullptr;
  }
  /// Seconds of bytes at the whole rate of one member's link into the level.
  static double at_rate(double bytes, const Crossing& at) { return bytes * at.seconds_per_byte; }
  const Crossing& outermost() const { return crossings_.back(); }

  /// `passes`: 1, or 2 for an all_reduce. The links of a unit and those between units each run in their fastest way.
  double ring(double passes) const {
    return fastest(kRings, [&](CollectiveWay way, std::size_t first, std::size_t last) {
      return around(way, passes, first, last);
    });
  }
  struct Part {
    double latency = 0, moving = 0;
  };
  /// `part(way, first, last)`: of the crossings from `first` to before `last`.
  template <std::size_t N, typename F>
  double fastest(const std::array<CollectiveWay, N>& ways, const F& part) const {
    double best = INFINITY;
    const bool one = crossings_.size() == 1;
    std::array<std::optional<Part>, N> inside;
    for (std::size_t i = 0; i < N && !one; ++i) inside[i] = part(ways[i], 0, 1);
    for (const CollectiveWay way : ways) {
      const std::optional<Part> outside = part(way, one ? 0 : 1, crossings_.size());
      if (!outside) continue;
      if (one) best = std::min(best, outside->latency + outside->moving);
      for (const auto& in : inside)
        if (in) best = std::min(best, outside->latency + in->latency + std::max(outside->moving, in->moving));
    }
    return best;
  }
  /// The ring's part on the crossings from `first` to before `last`; the outermost starts it.
  std::optional<Part> around(CollectiveWay way, double passes, std::size_t first, std::size_t last) const {
    Part part;
    for (std::size_t i = first; i < last; ++i) {
      const Crossing& c = crossings_[i];
      const TransferCurve* curve = Collective::curve(way, c);
      if (!curve) return std::nullopt;
      part.latency += passes * (ranks_ / c.below - ranks_ / c.here) * curve->step;
      const double own = c.curves && c.below == 1 ? c.curves->ring_copy : 0;
      const double bytes = (passes * (ranks_ - 1) + own) / ranks_ * held_ / c.below;
      part.moving = std::max(part.moving, curve->moving(at_rate(bytes, c)));
      if (&c == &outermost()) part.latency += curve->start;
    }
    return part;
  }

  double all_reduce() const {
    double best = ring(2);
    const Crossing& out = outermost();
    if (crossings_.size() == 1 && out.below == 1) {
      if (const TransferCurve* sums = own_way(CollectiveWay::in_switch, out))
        best = std::min(best, sums->start + sums->moving(at_rate(held_, out)));
    }
    if (const TransferCurve* tree = own_way(CollectiveWay::tree, out)) best = std::min(best, tree_of(*tree));
    return best;
  }
  /// Up the tree and down again; a second tree, in which the first one's leaves are inner nodes, carries half. A node
  /// sends its sum to its parent and the total to two children in one of the trees, its sum alone in the other: twice
  /// what is held; of two nodes each is the other's parent in one tree: once. Inside its unit a sum is made in the
  /// switch, or around a ring.
  double tree_of(const TransferCurve& tree) const {
    double slowest = 0;
    for (const Crossing& c : crossings_) {
      if (&c == &crossings_.front() && crossings_.size() > 1) {
        const TransferCurve* sums = own_way(CollectiveWay::in_switch, c);
        const TransferCurve* around = curve(CollectiveWay::ring_simple, c);
        slowest = std::max(slowest, sums ? sums->moving(at_rate(held_, c))
                                         : around->moving(at_rate(2 * (c.here - 1) / c.here * held_, c)));
        continue;
      }
      const double both_ways = c.here / c.below == 2 && &c == &outermost() ? 1 : 2;
      slowest = std::max(slowest, tree.moving(at_rate(both_ways * held_ / c.below, c)));
    }
    const double inside = crossings_.size() == 1 ? crossings_.front().below : crossings_.front().here;
    return tree.start + 2 * std::ceil(std::log2(ranks_ / inside)) * tree.step + slowest;
  }

  double all_to_all() const {
    const auto part = [&](CollectiveWay way, std::size_t first, std::size_t last) { return sent(way, first, last); };
    const double rows = spec_.crossing < 1 ? fastest(kRows, part) : INFINITY;
    return rows < INFINITY ? rows : fastest(kSends, part);
  }
  std::optional<Part> sent(CollectiveWay way, std::size_t first, std::size_t last) const {
    Part part;
    for (std::size_t i = first; i < last; ++i) {
      const Crossing& c = crossings_[i];
      const TransferCurve* curve = Collective::curve(way, c);
      if (!curve) return std::nullopt;
      const double own = c.curves && c.below == 1 ? c.curves->direct_copy : 0;
      double bytes = held_ * (spec_.crossing * (c.here - c.below) + own) / ranks_;
      if (spec_.crossing < 1 && c.level == &machine_.links.front()) bytes = held_ * (c.here - 1) / c.here;
      part.moving = std::max(part.moving, curve->moving(at_rate(bytes, c)));
      part.latency += (c.curves ? c.here - c.below : 1) * curve->step;
      if (&c == &outermost()) part.latency += curve->start;
    }
    return part;
  }

  double send_recv() const {
    const Crossing& c = outermost();
    double best = INFINITY;
    for (const CollectiveWay way : kSends)
      if (const TransferCurve* curve = Collective::curve(way, c))
        best = std::min(best, curve->start + curve->step + curve->moving(at_rate(held_, c)));
    return best;
  }

  const CollectiveSpec& spec_;
  const Machine& machine_;
  double ranks_, held_;
  boost::container::static_vector<Crossing, 8> crossings_;
};

/// An inference engine's all-reduce, or kernels over multicast and load-store memory, where the group is in one unit
/// whose links know the way; nothing elsewhere. Such engines call NCCL where that is faster.
std::optional<double> special_seconds(const CollectiveSpec& spec, const Machine& machine) {
  const LinkLevel& unit = machine.links.front();
  const std::int64_t n = spec.group.size();
  if (!unit.curves || members(spec.group, n, unit) != n) return std::nullopt;
  const double peers = static_cast<double>(n - 1), ranks = static_cast<double>(n);
  using enum CollectiveWay;
  const auto seconds = [&](CollectiveWay way, double share_held) -> std::optional<double> {
    const auto& curve = (*unit.curves)[way];
    if (!curve) return std::nullopt;
    const double bytes = share_held * static_cast<double>(spec.held.value);
    return curve->start + peers * curve->step + curve->moving(bytes / unit.bandwidth.value);
  };
  switch (spec.algorithm) {
    case CollectiveAlgorithm::nccl:
      return std::nullopt;
    case CollectiveAlgorithm::custom: {
      const auto one = seconds(one_shot, peers), two = seconds(two_shot, 2 * peers / ranks);
      if (!one || !two) return one ? one : two;
      return std::min(*one, *two);
    }
    case CollectiveAlgorithm::one_shot_multicast:
      return seconds(one_shot_multicast, 1);
    case CollectiveAlgorithm::two_shot_multicast:
      return seconds(two_shot_multicast, 2 * peers / ranks);
    case CollectiveAlgorithm::lsa_simple:
      return seconds(lsa_simple, peers / ranks);
    case CollectiveAlgorithm::lsa_poison:
      return seconds(lsa_poison, peers / ranks);
  }
  assert(false && "an algorithm without a cost");
  return std::nullopt;
}

}  // namespace

std::optional<double> least_measured_slope(const CollectiveSpec& spec, const Machine& machine) {
  return may_be_measured(spec, machine) ? machine.measured->least_slope(spec) : std::nullopt;
}

bool has_curve(const CollectiveSpec& spec, const Machine& machine) {
  return spec.algorithm == CollectiveAlgorithm::nccl || special_seconds(spec, machine).has_value();
}

KernelCost collective_cost(const CollectiveSpec& spec, const Machine& machine) {
  if (spec.group.size() <= 1) return {{0}, CostSource::datasheet, 0};
  if (may_be_measured(spec, machine)) {
    if (const auto cost = machine.measured->find(spec)) return *cost;
  }
  const Collective collective(spec, machine);
  double seconds = INFINITY;
  const bool custom = spec.algorithm == CollectiveAlgorithm::custom;
  const auto special = special_seconds(spec, machine);
  if (!special || custom) seconds = collective.seconds();
  return {{std::min(seconds, special.value_or(INFINITY))}, CostSource::datasheet, collective.relative_error()};
}

}  // namespace shardwright
