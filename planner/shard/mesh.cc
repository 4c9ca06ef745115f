#include "planner/shard/mesh.h"

#include <algorithm>
#include <cassert>

namespace shardwright {

AxisTuple operator+(AxisTuple outer, const AxisTuple& inner) {
  for (AxisId a : inner) outer.push_back(a);
  return outer;
}

std::variant<Mesh, std::string> Mesh::refine(const std::vector<View>& views, std::int64_t outer_from,
                                             std::int64_t outer_factor) {
  struct Cut {
    std::int64_t at;
    const Degree* degree;  // the degree that ends here
  };
  std::vector<Cut> cuts;
  for (const View& view : views) {
    std::int64_t at = 1;
    for (const Degree& d : view) {
      at *= d.size;
      cuts.push_back({at, &d});
    }
  }
  std::stable_sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) { return a.at < b.at; });
  Mesh mesh;
  std::vector<std::int64_t> begins;  // of each axis on the line
  std::int64_t at = 1;
  const Degree* before = nullptr;
  for (const Cut& cut : cuts) {
    if (cut.at == at) {
      before = cut.degree;
      continue;
    }
    if (cut.at % at != 0)
      return before->name + " " + std::to_string(before->size) + " and " + cut.degree->name + " " +
             std::to_string(cut.degree->size) + " have no common refinement: " + std::to_string(at) +
             " does not divide " + std::to_string(cut.at);
    const bool outer = outer_from > 0 && at >= outer_from;
    mesh.axes_.push_back({static_cast<std::int32_t>(cut.at / at), outer ? at * outer_factor : at});
    begins.push_back(at);
    at = cut.at;
    before = cut.degree;
  }
  assert(mesh.axes_.size() <= 16 && "an axis set has 16 bits");
  for (const View& view : views) {
    std::int64_t low = 1;
    for (const Degree& d : view) {
      AxisTuple tuple;
      for (std::size_t i = begins.size(); i-- > 0;)
        if (begins[i] >= low && begins[i] < low * d.size) tuple.push_back(static_cast<AxisId>(i));
      low *= d.size;
      mesh.names_.emplace_back(d.name, tuple);
    }
  }
  return mesh;
}

AxisTuple Mesh::tuple(const std::string& name) const {
  for (const auto& [known, tuple] : names_)
    if (known == name) return tuple;
  return {};
}

RankGroup Mesh::group(AxisSet set) const {
  RankGroup group;
  for (std::size_t i = 0; i < axes_.size(); ++i)
    if (set >> i & 1) group.add(axes_[i].size, axes_[i].stride);
  return group;
}

}  // namespace shardwright
