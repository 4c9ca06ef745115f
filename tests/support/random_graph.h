#pragma once

#include <cstdint>
#include <vector>

#include "models/op_graph.h"
#include "planner/mesh.h"
#include "planner/shard.h"

namespace shardwright {

/// A small graph of operators drawn at random, a mesh of 2 to 4 axes, and declarations that shard it at random. Every extent is
/// another one, so that a mix-up of dimensions shows.
struct RandomCase {
  OpGraph graph;
  std::vector<std::int64_t> extents;
  Mesh mesh;
  Declarations says;
};
RandomCase random_case(std::uint64_t seed);

}  // namespace shardwright
