#pragma once

#include <vector>

#include "planner/cost/merged_products.h"
#include "planner/shard/mesh.h"
#include "planner/shard/shard.h"
#include "planner/workload.h"

namespace shardwright {

/// What the host does for a node.
struct HostWork {
  double launches = 0;  ///< of operators: what the node computes and each of its collectives, once for a ring's block
  int waits = 0;        ///< 1 where it has to know how many rows each expert gets
};

/// By node; nothing for what was captured as a CUDA graph (the launch of such a graph is left out). Parameter gathers
/// are none of a pass. `together`: of `sharded`; of merged products each is its share. `counts_rows`: the host waits
/// for the rows of each expert.
std::vector<HostWork> host_work(const OpGraph& graph, const Mesh& mesh, const ShardedGraph& sharded,
                                const CudaGraphs& captured, bool counts_rows, const MadeTogether& together);

}  // namespace shardwright
