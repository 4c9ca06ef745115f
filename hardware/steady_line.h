#pragma once

#include <algorithm>
#include <cmath>

namespace shardwright {

/// A line under a curve's t(l) = launch + l (1 + throttle l / (l + throttle_seconds)), l the loop's time without
/// throttle: t(l) >= launch' + slope l. Times of parts add up to no less than their launches' and slope x the whole
/// loop.
struct SteadyLine {
  double launch = 0, slope = 1;
};

/// The tangent at the l that costs a quarter of throttle x throttle_seconds of the launch, or all of the launch: with
/// s = l / (l + throttle_seconds) it has the slope 1 + throttle (1 - (1 - s)^2) and begins throttle x throttle_seconds
/// s^2 below the launch.
template <typename Curve>
SteadyLine steady_line(const Curve& curve) {
  const double most = curve.throttle * curve.throttle_seconds;
  if (most == 0) return {curve.launch_seconds, 1};
  const double given_up = std::min(curve.launch_seconds, most / 4);
  const double s = std::sqrt(given_up / most);
  return {curve.launch_seconds - given_up, 1 + curve.throttle * (1 - (1 - s) * (1 - s))};
}

}  // namespace shardwright
