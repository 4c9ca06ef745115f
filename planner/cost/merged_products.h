#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "planner/shard/shard.h"

namespace shardwright {

/// Which products of one input with several weights an engine makes as one.
enum class MergedProducts : std::uint8_t {
  none,
  attention,  ///< queries, keys and values
  all,        ///< gate and up, too
};

/// Operators whose products one kernel makes with that of `op`, itself among them: of one input with several weights
/// (queries, keys and values; gate and up), as a layer with one weight whose result is cut afterwards. So are their
/// gradients. `op` alone where nothing is merged.
std::vector<OpId> merged_products(const OpGraph& graph, OpId op, MergedProducts merges);

/// Which nodes of a derived graph compute parts of one product, and what follows from it: of any sizes, found once.
struct MadeTogether {
  MadeTogether(const OpGraph& graph, const ShardedGraph& sharded, MergedProducts merges);
  std::vector<std::vector<NodeId>> products;  ///< by node: those of the same pass, itself among them; empty: it alone
  std::vector<std::size_t> addends;           ///< by node, of sums: see addends()
};

/// What a sum of gradients has left to add, where merged products have summed up what they make.
std::size_t addends(const OpGraph& graph, const ShardedGraph& sharded, const Node& sum, MergedProducts merges);

/// Into how many layers a collective's result goes, or from how many a sum that it reduces comes: merged products are
/// one. At least 1.
std::size_t layers_at(const OpGraph& graph, const ShardedGraph& sharded, const Node& collective, MergedProducts merges);

}  // namespace shardwright
