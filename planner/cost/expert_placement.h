#pragma once

#include <vector>

namespace shardwright {

/// Where the copies of a layer's routed experts are.
struct ExpertPlacement {
  std::vector<int> expert_of_slot;  // by physical slot, GPU by GPU, node by node
  std::vector<int> replicas;        // by expert, at least 1
};

/// Places `loads.size()` experts and the redundant copies of the busiest in `slots` slots, equally many on each GPU, by
/// the rule of DeepSeek's open EPLB ("Expert Parallelism Load Balancer", github.com/deepseek-ai/EPLB, 2025):
/// groups of neighbouring experts are packed onto the nodes; inside each node every spare slot goes to a copy of the
/// expert with the largest load per copy; the copies are packed onto the node's GPUs. So a token whose experts lie in
/// few groups stays on few nodes. Where the nodes do not divide the groups, all is one group on one node. Packing takes
/// the heaviest item first, into the lightest pack that has room; one item a pack stays where it is. Equals: the lowest
/// index first. Two copies of an expert may meet on one GPU.
///
/// Throws std::invalid_argument: no experts, a load that is negative or not finite, a count below 1, fewer slots than
/// experts, slots that the GPUs do not divide, GPUs that the nodes do not divide, experts that the groups do not
/// divide.
ExpertPlacement place_experts(const std::vector<double>& loads, int slots, int groups, int nodes, int gpus);

/// Load of the busiest of `gpus` GPUs relative to the mean, each copy taking an equal part of its expert's load; 1
/// where there is no load at all. `placement` is of the same experts, and `gpus` divides its slots.
double busiest_gpu(const std::vector<double>& loads, const ExpertPlacement& placement, int gpus);

}  // namespace shardwright
