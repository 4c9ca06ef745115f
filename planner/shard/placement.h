#pragma once

#include "models/op_graph.h"
#include "planner/shard/mesh.h"

namespace shardwright {

/// Where a tensor lies on a mesh: for each of its dimensions (by position) the axes that cut it, outer first, and the
/// axes over which every rank holds a partial value. An axis occurs at most once; an axis in neither place replicates.
struct Placement {
  AxisTuple dims[DimList::kMax];
  AxisSet partial = 0;

  bool operator==(const Placement&) const = default;
  bool same_dims(const Placement& other, int rank) const {
    for (int i = 0; i < rank; ++i)
      if (!(dims[i] == other.dims[i])) return false;
    return true;
  }
  AxisSet sharded() const {
    AxisSet s = 0;
    for (const AxisTuple& t : dims) s = static_cast<AxisSet>(s | set_of(t));
    return s;
  }
  bool is_replicated() const { return sharded() == 0 && partial == 0; }
};

/// Elements that one rank holds. Extents divide: see shard().
std::int64_t local_elements(const DimList& dims, const std::vector<std::int64_t>& extents, const Placement& placement,
                            const Mesh& mesh);

/// One collective of a reshard, in the order in which they run.
enum class ReshardStep : std::uint8_t { slice, reduce_scatter, all_to_all, all_reduce, all_gather };
std::string_view name_of(ReshardStep);

struct ReshardSteps {
  struct Step {
    ReshardStep kind = ReshardStep::slice;
    AxisSet axes = 0;
    std::int64_t held_elements = 0;  // nccl-tests' size: see CollectiveSpec
  };
  Step steps[5];
  int count = 0;
  bool is_gather() const { return count == 1 && steps[0].kind == ReshardStep::all_gather; }
};

/// Whether `from` becomes `to` by one reshard: on every dimension the axes that stay are a common prefix of both
/// tuples.
bool is_direct(const Placement& from, const Placement& to);

/// Steps that turn `from` into `to`: what shrinks goes before what is proportional, the gather last; all axes of one
/// kind are one collective. `elements`: of one rank at `from`. Precondition: is_direct, and to.partial is part of
/// from.partial.
ReshardSteps reshard_steps(const Placement& from, const Placement& to, std::int64_t elements, const Mesh& mesh);

/// For a pair that is not direct: a placement between them that makes both halves direct, with the axes that break the
/// prefix gathered.
Placement halfway(const Placement& from, const Placement& to);

}  // namespace shardwright
