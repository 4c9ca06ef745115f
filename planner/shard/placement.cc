#include "planner/shard/placement.h"

#include <cassert>

namespace shardwright {
namespace {

/// Length of the common prefix of two tuples.
int common_prefix(const AxisTuple& a, const AxisTuple& b) {
  int n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

/// Axes that are on both tuples.
AxisSet staying(const AxisTuple& a, const AxisTuple& b) { return static_cast<AxisSet>(set_of(a) & set_of(b)); }

bool prefix_holds(const AxisTuple& a, const AxisTuple& b) {
  const int n = common_prefix(a, b);
  AxisSet prefix = 0;
  for (int i = 0; i < n; ++i) prefix = static_cast<AxisSet>(prefix | bit(a[i]));
  return staying(a, b) == prefix;
}

}  // namespace

std::string_view name_of(ReshardStep step) {
  switch (step) {
    case ReshardStep::slice:
      return "slice";
    case ReshardStep::reduce_scatter:
      return "reduce_scatter";
    case ReshardStep::all_to_all:
      return "all_to_all";
    case ReshardStep::all_reduce:
      return "all_reduce";
    case ReshardStep::all_gather:
      return "all_gather";
  }
  return "";
}

std::int64_t local_elements(const DimList& dims, const std::vector<std::int64_t>& extents, const Placement& placement,
                            const Mesh& mesh) {
  std::int64_t n = 1;
  for (int i = 0; i < dims.size(); ++i) {
    const std::int64_t parts = mesh.size_of(placement.dims[i]);
    assert(extents[dims[i]] % parts == 0 && "layouts are checked before they are sharded");
    n *= extents[dims[i]] / parts;
  }
  return n;
}

bool is_direct(const Placement& from, const Placement& to) {
  for (int i = 0; i < DimList::kMax; ++i)
    if (!prefix_holds(from.dims[i], to.dims[i])) return false;
  return true;
}

ReshardSteps reshard_steps(const Placement& from, const Placement& to, std::int64_t elements, const Mesh& mesh) {
  AxisSet axes[5] = {};
  const AxisSet source = from.sharded(), target = to.sharded();
  const AxisSet resolved = static_cast<AxisSet>(from.partial & ~to.partial);
  auto& [slice, scatter, exchange, reduce, gather] = axes;
  scatter = static_cast<AxisSet>(resolved & target);
  reduce = static_cast<AxisSet>(resolved & ~target);
  slice = static_cast<AxisSet>(target & ~source & ~resolved);
  gather = static_cast<AxisSet>(source & ~target);
  for (int i = 0; i < DimList::kMax; ++i)
    for (AxisId a : from.dims[i])
      if ((target & bit(a)) && !to.dims[i].has(a)) exchange = static_cast<AxisSet>(exchange | bit(a));

  ReshardSteps result;
  std::int64_t n = elements;
  for (int k = 0; k < 5; ++k) {
    if (!axes[k]) continue;
    const auto kind = static_cast<ReshardStep>(k);
    const std::int64_t parts = mesh.size_of(axes[k]);
    if (kind == ReshardStep::all_gather) n *= parts;
    result.steps[result.count++] = {kind, axes[k], n};
    if (kind == ReshardStep::slice || kind == ReshardStep::reduce_scatter) n /= parts;
  }
  return result;
}

Placement halfway(const Placement& from, const Placement& to) {
  Placement middle = from;
  for (int i = 0; i < DimList::kMax; ++i) {
    if (prefix_holds(from.dims[i], to.dims[i])) continue;
    AxisTuple kept;
    for (int k = 0; k < common_prefix(from.dims[i], to.dims[i]); ++k) kept.push_back(from.dims[i][k]);
    middle.dims[i] = kept;
  }
  return middle;
}

}  // namespace shardwright
