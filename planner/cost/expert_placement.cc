#include "planner/cost/expert_placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace shardwright {
namespace {

/// The items of each pack, in the order in which they came to it. All packs get equally many.
std::vector<std::vector<int>> packed(const std::vector<double>& weights, int packs) {
  const std::size_t room = weights.size() / static_cast<std::size_t>(packs);
  std::vector<std::vector<int>> items(static_cast<std::size_t>(packs));
  std::vector<int> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  if (room == 1) {
    for (const int item : order) items[static_cast<std::size_t>(item)].push_back(item);
    return items;
  }
  const auto weight = [&](int item) { return weights[static_cast<std::size_t>(item)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight(a) > weight(b); });
  std::vector<double> load(items.size(), 0);
  for (const int item : order) {
    std::size_t lightest = items.size();
    for (std::size_t pack = 0; pack < items.size(); ++pack) {
      if (items[pack].size() == room) continue;
      if (lightest == items.size() || load[pack] < load[lightest]) lightest = pack;
    }
    items[lightest].push_back(item);
    load[lightest] += weight(item);
  }
  return items;
}

/// The expert of each of `slots` copies: each expert once, then one more copy at a time of the one that has most to do.
std::vector<int> copies_of(const std::vector<double>& loads, std::size_t slots) {
  std::vector<int> replicas(loads.size(), 1), copies(loads.size());
  std::iota(copies.begin(), copies.end(), 0);
  while (copies.size() < slots) {
    std::size_t busiest = 0;
    for (std::size_t i = 1; i < loads.size(); ++i) {
      if (loads[i] / replicas[i] > loads[busiest] / replicas[busiest]) busiest = i;
    }
    ++replicas[busiest];
    copies.push_back(static_cast<int>(busiest));
  }
  return copies;
}

/// Fills the slots of one node, which has `experts`, and counts their copies.
void place_on_node(const std::vector<double>& loads, const std::vector<int>& experts, std::size_t slots, int gpus,
                   ExpertPlacement& placement) {
  std::vector<double> node_loads;
  for (const int expert : experts) node_loads.push_back(loads[static_cast<std::size_t>(expert)]);
  std::vector<int> copies = copies_of(node_loads, slots);
  for (int& copy : copies) {
    copy = experts[static_cast<std::size_t>(copy)];
    ++placement.replicas[static_cast<std::size_t>(copy)];
  }
  std::vector<double> copy_loads;
  for (const int expert : copies) {
    copy_loads.push_back(loads[static_cast<std::size_t>(expert)] /
                         placement.replicas[static_cast<std::size_t>(expert)]);
  }
  for (const std::vector<int>& gpu : packed(copy_loads, gpus)) {
    for (const int copy : gpu) placement.expert_of_slot.push_back(copies[static_cast<std::size_t>(copy)]);
  }
}

/// The experts of each node: whole groups of neighbours.
std::vector<std::vector<int>> experts_of_nodes(const std::vector<double>& loads, int groups, int nodes) {
  const std::size_t size = loads.size() / static_cast<std::size_t>(groups);
  std::vector<double> group_loads(static_cast<std::size_t>(groups), 0);
  for (std::size_t i = 0; i < loads.size(); ++i) group_loads[i / size] += loads[i];
  std::vector<std::vector<int>> experts;
  for (const std::vector<int>& node : packed(group_loads, nodes)) {
    experts.emplace_back();
    for (const int group : node) {
      for (std::size_t i = 0; i < size; ++i) {
        experts.back().push_back(static_cast<int>(static_cast<std::size_t>(group) * size + i));
      }
    }
  }
  return experts;
}

void check(bool holds, const std::string& complaint) {
  if (!holds) throw std::invalid_argument("place_experts: " + complaint);
}

void check_arguments(const std::vector<double>& loads, int slots, int groups, int nodes, int gpus) {
  const std::size_t experts = loads.size();
  check(experts > 0, "there are no experts");
  for (std::size_t i = 0; i < experts; ++i) {
    check(std::isfinite(loads[i]) && loads[i] >= 0,
          fmt::format("the load of expert {} is {}, not a finite number of at least 0", i, loads[i]));
  }
  check(groups >= 1 && nodes >= 1 && gpus >= 1,
        fmt::format("{} groups, {} nodes and {} GPUs must be at least 1 each", groups, nodes, gpus));
  check(slots >= 0 && static_cast<std::size_t>(slots) >= experts,
        fmt::format("{} slots are too few for {} experts", slots, experts));
  check(slots % gpus == 0, fmt::format("{} slots do not divide over {} GPUs", slots, gpus));
  check(gpus % nodes == 0, fmt::format("{} GPUs do not divide over {} nodes", gpus, nodes));
  check(experts % static_cast<std::size_t>(groups) == 0,
        fmt::format("{} experts do not divide into {} groups", experts, groups));
}

}  // namespace

ExpertPlacement place_experts(const std::vector<double>& loads, int slots, int groups, int nodes, int gpus) {
  check_arguments(loads, slots, groups, nodes, gpus);
  if (groups % nodes != 0) groups = nodes = 1;
  ExpertPlacement placement;
  placement.replicas.assign(loads.size(), 0);
  for (const std::vector<int>& experts : experts_of_nodes(loads, groups, nodes)) {
    place_on_node(loads, experts, static_cast<std::size_t>(slots / nodes), gpus / nodes, placement);
  }
  return placement;
}

double busiest_gpu(const std::vector<double>& loads, const ExpertPlacement& placement, int gpus) {
  const std::vector<int>& slots = placement.expert_of_slot;
  const auto count = static_cast<std::size_t>(gpus);
  assert(gpus >= 1 && placement.replicas.size() == loads.size() && slots.size() % count == 0);
  const std::size_t slots_per_gpu = slots.size() / count;
  double busiest = 0, all = 0;
  for (std::size_t gpu = 0; gpu < count; ++gpu) {
    double sum = 0;
    for (std::size_t slot = gpu * slots_per_gpu; slot < (gpu + 1) * slots_per_gpu; ++slot) {
      const auto expert = static_cast<std::size_t>(slots[slot]);
      sum += loads[expert] / placement.replicas[expert];
    }
    busiest = std::max(busiest, sum);
    all += sum;
  }
  return all == 0 ? 1 : busiest / all * gpus;
}

}  // namespace shardwright
