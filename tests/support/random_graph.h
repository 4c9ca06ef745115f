#pragma once

#include <cstdint>
#include <vector>

#include "models/op_graph.h"
#include "planner/shard/mesh.h"
#include "planner/shard/shard.h"

namespace shardwright {

/// A small graph of operators drawn at random, a mesh of 2 to 4 axes, and declarations that shard it at random. Every
/// extent is another one, so that a mix-up of dimensions shows.
struct RandomCase {
  OpGraph graph;
  std::vector<std::int64_t> extents;
  Mesh mesh;
  Declarations says;
};
/// `tidy`: declared as layouts are, so that every collective is needed. Otherwise anything goes that the rules allow,
/// also what gathers a tensor for an operator whose reader cuts it again.
RandomCase random_case(std::uint64_t seed, bool tidy);

}  // namespace shardwright
