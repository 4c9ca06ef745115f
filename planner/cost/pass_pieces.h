#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "planner/cost/node_cost.h"
#include "planner/timeline.h"

namespace shardwright {

/// The parallelism that a communication belongs to.
enum class Traffic : std::uint8_t { tensor, context, expert, data, pipeline };
inline constexpr int kTraffics = kPieceKinds;
std::string_view name_of(Traffic);
using TrafficTimes = std::array<Seconds, kTraffics>;

/// Communications of a pass that run beside what does not wait for them; the others hold up everything.
struct PassOverlap {
  bool tensor = false;  ///< in as many parts as there are ranks, each beside the product that reads or makes it
  bool expert = false;  ///< rows of experts: beside another micro-batch, and beside shared experts
  bool operator==(const PassOverlap&) const = default;
};

/// A pass through a graph as pieces of work on a GPU's streams.
struct PassPieces {
  std::vector<Piece> pieces;  ///< `kind`: Traffic
  std::vector<NodeId> nodes;  ///< by piece
};

/// `order`: of forward, of a BackwardPlan, or a part of one. `costs`: by node. A communication that runs beside others
/// starts when what was issued before it has been computed, as on a stream that waits for an event of another.
PassPieces pass_pieces(const CostContext& context, const ShardedGraph& sharded, const std::vector<NodeCost>& costs,
                       const std::vector<NodeId>& order, const PassOverlap& overlap);

/// Two passes at once, neither of which waits for the other: what is issued when follows how far each has come.
PassPieces paired(const PassPieces& a, const PassPieces& b);

/// What a pass takes, and what of it.
struct PassTime {
  Seconds total;
  Seconds compute;       ///< while something computes; slower beside communications that take multiprocessors
  TrafficTimes traffic;  ///< while it is under way
  TrafficTimes exposed;  ///< of that, while nothing computes: total = compute + all that is exposed
};
PassTime pass_time(const PassPieces& pass);

}  // namespace shardwright
