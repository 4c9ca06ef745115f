#pragma once

#include "hardware/machine.h"
#include "models/model.h"
#include "planner/layout.h"
#include "planner/shard/mesh.h"

namespace shardwright {

/// CollectiveSpec::crossing of the rows on their way to the experts and back: 1 where every copy of a row travels by
/// itself, else the nodes (units of the innermost links) that a token's experts lie in over the experts, every choice
/// of experts that the model allows equally likely. `mesh` is stage_mesh(layout).
double row_crossing(const Model& model, const Layout& layout, const Mesh& mesh, const Machine& machine);

/// Of alltoall and deepep the one that moves the rows of such a layout in less time; alltoall where it makes no
/// difference. They need the same memory, so the other one is never the better choice. allgather is not looked at.
Dispatcher faster_dispatcher(const Model& model, const Layout& layout, const Machine& machine);

}  // namespace shardwright
