#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "hardware/rank_group.h"

namespace shardwright {

using AxisId = std::uint8_t;

/// Axes of a mesh in order, outer first: how one dimension is cut. At most 7, inline.
struct AxisTuple {
  static constexpr int kMax = 7;
  std::uint8_t count = 0;
  AxisId axes[kMax] = {};

  constexpr int size() const { return count; }
  constexpr AxisId operator[](int i) const { return axes[i]; }
  constexpr const AxisId* begin() const { return axes; }
  constexpr const AxisId* end() const { return axes + count; }
  constexpr void push_back(AxisId a) { axes[count++] = a; }
  constexpr bool has(AxisId a) const {
    for (AxisId x : *this)
      if (x == a) return true;
    return false;
  }
  constexpr bool operator==(const AxisTuple&) const = default;
};

/// A set of axes, one bit each.
using AxisSet = std::uint16_t;
constexpr AxisSet bit(AxisId a) { return static_cast<AxisSet>(1u << a); }
constexpr AxisSet set_of(const AxisTuple& tuple) {
  AxisSet s = 0;
  for (AxisId a : tuple) s = static_cast<AxisSet>(s | bit(a));
  return s;
}
AxisTuple operator+(AxisTuple outer, const AxisTuple& inner);

/// The ranks of one pipeline stage as a mesh of atomic axes.
///
/// All ranks of a stage lie on one line. A *view* cuts the line into named degrees, innermost first ("tp 8, cp 2, dp
/// 4"). Every cut of every view becomes a boundary between atomic axes, so that a degree of any view is a tuple of
/// atomic axes and two views share axes where they overlap. Degrees of 1 have no axis.
class Mesh {
 public:
  struct Axis {
    std::int32_t size = 1;
    std::int64_t stride = 1;  // between neighbours on the axis, in global ranks
    bool operator==(const Axis&) const = default;
  };
  struct Degree {
    std::string name;
    std::int64_t size = 1;
  };
  using View = std::vector<Degree>;

  /// The refinement of `views`, each innermost degree first, all of equal product. From `outer_from` positions on the
  /// line on (data parallelism), neighbours lie `outer_factor` times further apart: the pipeline stands between them.
  /// Returns a sentence with the two numbers when cuts of two views do not divide each other ("tp 2 and etp 3 do not
  /// divide").
  static std::variant<Mesh, std::string> refine(const std::vector<View>& views, std::int64_t outer_from = 0,
                                                std::int64_t outer_factor = 1);

  const std::vector<Axis>& axes() const { return axes_; }
  std::int64_t size_of(AxisSet set) const {
    std::int64_t n = 1;
    for (std::size_t i = 0; i < axes_.size(); ++i)
      if (set >> i & 1) n *= axes_[i].size;
    return n;
  }
  std::int64_t size_of(const AxisTuple& t) const {
    std::int64_t n = 1;
    for (AxisId a : t) n *= axes_[a].size;
    return n;
  }
  std::int64_t ranks() const { return size_of(static_cast<AxisSet>((1u << axes_.size()) - 1)); }
  /// Atomic axes of a degree, outer first; empty for a degree of 1 or a name that no view has.
  AxisTuple tuple(const std::string& name) const;
  /// The ranks that a collective over `set` joins.
  RankGroup group(AxisSet set) const;

 private:
  std::vector<Axis> axes_;  // innermost first
  std::vector<std::pair<std::string, AxisTuple>> names_;
};

}  // namespace shardwright
