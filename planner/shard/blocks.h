#pragma once

#include <cstdint>
#include <vector>

#include "models/op_graph.h"
#include "planner/shard/mesh.h"
#include "planner/shard/placement.h"

namespace shardwright {

/// Where a rank of a stage stands on an axis. `line`: its place on the stage's line of ranks, innermost axis first.
int coordinate(const Mesh& mesh, std::int64_t line, AxisId axis);

/// Places on the line that `line` meets over some axes, itself included, in order: outer axes count most.
std::vector<std::int64_t> members_over(const Mesh& mesh, std::int64_t line, AxisSet axes);

/// Lengths of every rank's block, by position in `dims`. Extents divide: see shard().
std::vector<std::int64_t> block_extents(const DimList& dims, const std::vector<std::int64_t>& extents,
                                        const Placement& placement, const Mesh& mesh);
/// Where a rank's block begins in each dimension: the outer axis counts most.
std::vector<std::int64_t> block_begin(const DimList& dims, const std::vector<std::int64_t>& extents,
                                      const Placement& placement, const Mesh& mesh, std::int64_t line);

/// The piece of a flattened block that a rank keeps where storage is cut over `axes`. All pieces are of `length`; what
/// the last ones have beyond the block's end is padding.
struct FlatPiece {
  std::int64_t parts = 1, index = 0, length = 0;
  std::int64_t first() const { return index * length; }
};
FlatPiece flat_piece(const Mesh& mesh, std::int64_t line, AxisSet axes, std::int64_t elements);

std::int64_t product(const std::vector<std::int64_t>& factors);

}  // namespace shardwright
