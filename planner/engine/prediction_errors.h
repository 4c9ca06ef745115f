#pragma once

#include <array>
#include <cstddef>

namespace shardwright {

/// An interval that holds 80 % of a normal error reaches so many sigmas to either side.
inline constexpr double kSigmasOf80 = 1.2815515655446004;

/// How far off steps are predicted: half-widths of intervals of log(predicted / measured) that hold 80 %, found where
/// published steps are predicted by fits that saw their source and that did not (fit_engines.h). Zeros: nothing is
/// known.
struct PredictionErrors {
  double step = 0, step_of_experts = 0;  ///< beyond what the errors of kernels and collectives explain
  double unknown_clock = 0;              ///< more, on a machine whose clock in long runs is not known
  /// Of the ratio of two layouts' steps, all else equal, by how many of tp, pp, cp and ep differ: none, one, more.
  std::array<double, 3> ratio = {};
  bool operator==(const PredictionErrors&) const = default;
};

}  // namespace shardwright
