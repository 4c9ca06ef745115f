#pragma once

#include <vector>

#include "planner/layout.h"
#include "planner/shard/shard.h"

namespace shardwright {

/// What stays from forward to backward, and the whole order of backward with what is run again in it.
struct BackwardPlan {
  std::vector<ValueId> saved;  ///< forward values that backward, or a re-run, reads; weights and ids are not counted
  std::vector<NodeId> order;   ///< re-run forward nodes and backward nodes, as they run
};

/// Bits of the modules that run a region again. Of several that are chosen the first counts: moe holds its activation
/// and the shared experts.
unsigned modules_of(Region region);

/// Saved tensors are the union of what every operator's backward reads. A wanted tensor made inside a recomputed region
/// is made again instead: the nodes that make it run again, reshards included, and what they read is wanted in turn.
///   full       the whole layer runs again, collectives too (Megatron checkpoints the layer)
///   core_attn, mlp, moe, shared_experts   plain checkpoints: run again whole; a tensor that leaves the region stays
///   saved layernorm, mla_up_proj, moe_act       their outputs are dropped and made again where they are read
/// moe holds its activation and the shared experts.
BackwardPlan plan_backward(const OpGraph& graph, const ShardedGraph& sharded, const Recompute& recompute);

}  // namespace shardwright
