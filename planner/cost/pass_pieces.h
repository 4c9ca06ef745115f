#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "planner/cost/node_cost.h"
#include "planner/pipeline/timeline.h"
#include "planner/shard/traffic.h"

namespace shardwright {

static_assert(kTraffics == kPieceKinds);

/// Communications of a pass that run beside what does not wait for them; the others hold up everything.
struct PassOverlap {
  bool tensor = false;  ///< in as many parts as there are ranks, each beside the product that reads or makes it
  bool expert = false;  ///< rows of experts: beside another micro-batch, and beside shared experts
  auto operator<=>(const PassOverlap&) const = default;
};

/// Whether a communication may run beside computing. `traffic`: of it.
bool may_run_beside(const CostContext& context, const Node& node, int traffic, const PassOverlap& overlap);

/// What an operator of a graph sends between ranks, by node: a Traffic, or -1 for nothing. Rings are Traffic::context.
std::vector<std::int8_t> traffic_of_nodes(const CostContext& context, const ShardedGraph& sharded);

/// A pass through a graph as pieces of work on a GPU's streams.
struct PassPieces {
  std::vector<Piece> pieces;  ///< `kind`: Traffic
  std::vector<NodeId> nodes;  ///< by piece
};

/// `order`: of forward, of a BackwardPlan, or a part of one. `costs`: by node. A communication that runs beside others
/// starts when what was issued before it has been computed, as on a stream that waits for an event of another.
/// `traffic`: traffic_of_nodes.
PassPieces pass_pieces(const CostContext& context, const ShardedGraph& sharded, const std::vector<NodeCost>& costs,
                       const std::vector<std::int8_t>& traffic, const std::vector<NodeId>& order,
                       const PassOverlap& overlap);

/// Two passes at once, neither of which waits for the other: what is issued when follows how far each has come.
PassPieces paired(const PassPieces& a, const PassPieces& b);

/// What a pass takes, and what of it.
struct PassTime {
  Seconds total;
  Seconds compute;       ///< while something computes; slower beside communications that take multiprocessors
  TrafficTimes traffic;  ///< while it is under way
  TrafficTimes exposed;  ///< of that, while nothing computes: total = compute + all that is exposed + host
  Seconds host = {};     ///< while the GPU waits for the host
  bool operator==(const PassTime&) const = default;
};
PassTime pass_time(const PassPieces& pass);
/// The same without pieces, where no communication runs beside anything.
PassTime pass_time(const std::vector<NodeCost>& costs, const std::vector<std::int8_t>& traffic,
                   const std::vector<NodeId>& order);

/// What a communication's kernel holds of the multiprocessors beside compute, at most half.
double communication_multiprocessors(const Machine& machine);

}  // namespace shardwright
