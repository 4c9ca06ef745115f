#include "planner/shard/transfer.h"

#include <algorithm>
#include <cassert>

#include "planner/shard/blocks.h"

namespace shardwright {
namespace {

/// Whole indices that a rank holds, in each dimension, ascending.
using Held = std::vector<std::vector<std::int64_t>>;

Held held_at(const DimList& dims, const std::vector<std::int64_t>& extents, const Mesh& mesh, const Placement& p,
             std::int64_t line) {
  const auto n = block_extents(dims, extents, p, mesh), begin = block_begin(dims, extents, p, mesh, line);
  Held held(n.size());
  for (std::size_t i = 0; i < n.size(); ++i)
    for (std::int64_t k = 0; k < n[i]; ++k) held[i].push_back(begin[i] + k);
  return held;
}

std::int64_t elements(const Held& held) {
  std::int64_t n = 1;
  for (const auto& indices : held) n *= static_cast<std::int64_t>(indices.size());
  return n;
}

/// Numbers that two ranks hold both.
std::int64_t common_elements(const Held& a, const Held& b) {
  std::int64_t n = 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::int64_t common = 0;
    for (std::int64_t index : a[i]) common += std::binary_search(b[i].begin(), b[i].end(), index) ? 1 : 0;
    n *= common;
  }
  return n;
}

/// Those of `part` within a block over `whole`, of which some indices may not be in it.
std::vector<Stretch> stretches(const Held& part, const Held& whole) {
  std::vector<Stretch> result = {{0, 1}};
  std::int64_t inner = 1;  // numbers of `whole` behind one index
  std::vector<std::vector<std::int64_t>> at(part.size());
  for (std::size_t i = 0; i < part.size(); ++i)
    for (std::int64_t index : part[i]) {
      const auto found = std::lower_bound(whole[i].begin(), whole[i].end(), index);
      if (found != whole[i].end() && *found == index) at[i].push_back(found - whole[i].begin());
    }
  for (std::size_t i = part.size(); i-- > 0;) {
    std::vector<Stretch> outer;
    for (std::int64_t index : at[i])
      for (const Stretch& s : result) {
        const std::int64_t first = index * inner + s.first;
        if (!outer.empty() && outer.back().first + outer.back().count == first)
          outer.back().count += s.count;
        else
          outer.push_back({first, s.count});
      }
    result = std::move(outer);
    inner *= static_cast<std::int64_t>(whole[i].size());
  }
  return result;
}

}  // namespace

std::int64_t elements_of(const std::vector<Stretch>& all) {
  std::int64_t n = 0;
  for (const Stretch& s : all) n += s.count;
  return n;
}

bool lies_at(std::int64_t index, std::int64_t extent, const AxisTuple& cut, AxisSet axes, const Mesh& mesh,
             std::int64_t line) {
  for (AxisId a : cut) {
    extent /= mesh.axes()[a].size;
    if ((axes & bit(a)) && index / extent != coordinate(mesh, line, a)) return false;
    index %= extent;
  }
  return true;
}

std::vector<TransferStep> transfer_steps(const DimList& dims, const std::vector<std::int64_t>& extents,
                                         const Mesh& mesh, const Placement& from, const Placement& to,
                                         const ReshardSteps& steps, std::int64_t line) {
  std::vector<Held> held;  // by place on the line
  for (std::int64_t r = 0; r < mesh.ranks(); ++r) held.push_back(held_at(dims, extents, mesh, from, r));
  const auto of = [](std::vector<Held>& all, std::int64_t place) -> Held& {
    return all[static_cast<std::size_t>(place)];
  };
  std::vector<TransferStep> result;
  for (int k = 0; k < steps.count; ++k) {
    const ReshardSteps::Step& step = steps.steps[k];
    const AxisSet met = step.kind == ReshardStep::slice ? AxisSet{0} : step.axes;
    std::vector<Held> next(held.size(), Held(held[0].size()));
    for (std::int64_t r = 0; r < mesh.ranks(); ++r) {
      for (std::size_t i = 0; i < next[0].size(); ++i) {
        std::vector<std::int64_t>& indices = of(next, r)[i];
        // Members that differ on axes that do not cut the dimension hold the same of it.
        const AxisSet cutting = static_cast<AxisSet>(met & set_of(from.dims[i]));
        for (std::int64_t member : members_over(mesh, r, cutting))
          for (std::int64_t index : of(held, member)[i])
            if (lies_at(index, extents[dims[static_cast<int>(i)]], to.dims[i], step.axes, mesh, r))
              indices.push_back(index);
        std::sort(indices.begin(), indices.end());
      }
    }
    TransferStep t = {step.kind, step.axes, members_over(mesh, line, met), {}, {}, 0, 0, true};
    t.elements = elements(of(held, line));
    t.next_elements = elements(of(next, line));
    for (std::int64_t member : t.members) {
      if (step.kind == ReshardStep::all_reduce) break;
      t.send.push_back(stretches(of(next, member), of(held, line)));
      t.receive.push_back(stretches(of(held, member), of(next, line)));
      // Every member comes to the same answer: whether all of them move alike.
      for (std::int64_t other : t.members)
        t.equal = t.equal && common_elements(of(next, other), of(held, member)) == elements_of(t.send[0]);
    }
    result.push_back(std::move(t));
    held = std::move(next);
  }
  assert(held[static_cast<std::size_t>(line)] == held_at(dims, extents, mesh, to, line) &&
         "the steps lead to the placement");
  return result;
}

}  // namespace shardwright
