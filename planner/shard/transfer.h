#pragma once

#include <cstdint>
#include <vector>

#include "models/op_graph.h"
#include "planner/shard/mesh.h"
#include "planner/shard/placement.h"

namespace shardwright {

/// Numbers of a block that lie one after the other.
struct Stretch {
  std::int64_t first = 0, count = 0;
  bool operator==(const Stretch&) const = default;
};
std::int64_t elements_of(const std::vector<Stretch>& stretches);

/// One step of a reshard as one rank takes part in it: which numbers of the block that it holds go to whom, and where
/// in its next block those of others land. A block is dense and row-major, over the indices held in each dimension.
struct TransferStep {
  ReshardStep kind = ReshardStep::slice;
  AxisSet axes = 0;
  std::vector<std::int64_t> members;          ///< places on the line, in the order of their pieces; of a slice itself
  std::vector<std::vector<Stretch>> send;     ///< by member, none for all_reduce
  std::vector<std::vector<Stretch>> receive;  ///< by member, into the next block; of a reduce_scatter added up
  std::int64_t elements = 0, next_elements = 0;  ///< of the block, before and after
  bool equal = true;                             ///< every member sends every other the same number of numbers
};

/// What `line` does to get its block from one placement to another: see reshard_steps(). A number goes where it lies at
/// `to`, as far as the step's axes say, so every step moves just what its kind moves.
std::vector<TransferStep> transfer_steps(const DimList& dims, const std::vector<std::int64_t>& extents,
                                         const Mesh& mesh, const Placement& from, const Placement& to,
                                         const ReshardSteps& steps, std::int64_t line);

/// Whether a whole index of a dimension lies, over some axes, where a rank stands.
bool lies_at(std::int64_t index, std::int64_t extent, const AxisTuple& cut, AxisSet axes, const Mesh& mesh,
             std::int64_t line);

}  // namespace shardwright
