#include "hardware/size_curve.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

using Points = std::vector<std::pair<double, double>>;

/// Of the logarithms, with slopes that keep a monotone curve monotone (harmonic means: Fritsch and Butland 1984, doi
/// 10.1137/0905021); beyond the ends a straight line.
double log_cubic(const Points& p, std::size_t i, double size) {
  const auto x = [&](std::size_t j) { return std::log(p[j].first); };
  const auto y = [&](std::size_t j) { return std::log(p[j].second); };
  const auto slope = [&](std::size_t j) { return (y(j + 1) - y(j)) / (x(j + 1) - x(j)); };
  const auto tangent = [&](std::size_t j) {
    if (j == 0) return slope(0);
    if (j + 1 == p.size()) return slope(j - 1);
    const double before = slope(j - 1), after = slope(j), left = x(j) - x(j - 1), right = x(j + 1) - x(j);
    return before * after <= 0 ? 0.0 : (before * right + after * left) / (left + right);
  };
  const double at = std::log(size);
  if (at < x(0)) return y(0) + slope(0) * (at - x(0));
  if (at > x(p.size() - 1)) return y(p.size() - 1) + slope(p.size() - 2) * (at - x(p.size() - 1));
  const double h = x(i + 1) - x(i), u = (at - x(i)) / h, u2 = u * u, u3 = u2 * u;
  return y(i) * (2 * u3 - 3 * u2 + 1) + tangent(i) * h * (u3 - 2 * u2 + u) + y(i + 1) * (3 * u2 - 2 * u3) +
         tangent(i + 1) * h * (u3 - u2);
}

/// `p` without one; the segment of `size`, or the last one towards it.
std::size_t segment_of(const Points& p, double size) {
  const auto after = std::upper_bound(p.begin(), p.end(), size, [](double s, const auto& q) { return s < q.first; });
  const auto i = static_cast<std::size_t>(after - p.begin());
  return std::clamp<std::size_t>(i, 1, p.size() - 1) - 1;
}

double linear(const Points& p, std::size_t i, double size) {
  const auto [s0, t0] = p[i];
  const auto [s1, t1] = p[i + 1];
  const double line = t0 + (t1 - t0) * (size - s0) / (s1 - s0);
  if (size < s0) return std::max(line, t0 * size / s0);
  if (size > s1) return std::max(line, t1);
  return line;
}

}  // namespace

void SizeCurve::add(double size, double seconds) {
  assert((points_.empty() || points_.back().first <= size) && "sizes come in their order");
  if (!points_.empty() && points_.back().first == size) {
    points_.back().second = std::min(points_.back().second, seconds);
  } else {
    points_.push_back({size, seconds});
  }
}

std::optional<SizeCurve::Reading> SizeCurve::at(double size, std::optional<std::size_t> skip) const {
  if (skip) {
    SizeCurve rest = *this;
    rest.points_.erase(rest.points_.begin() + static_cast<std::ptrdiff_t>(*skip));
    return rest.at(size);
  }
  if (points_.size() < 2) return std::nullopt;
  const std::size_t i = segment_of(points_, size);
  Reading reading{linear(points_, i, size)};
  reading.outside = size < points_.front().first || size > points_.back().first;
  if (size > 0 && points_.front().first > 0)
    reading.doubt = std::abs(std::log(reading.seconds) - log_cubic(points_, i, size)) / 2;
  return reading;
}

/// Time over size has no least inside of a segment: the ends decide.
double SizeCurve::least_slope(double size) const {
  const auto here = at(size);
  if (!here || size <= 0) return 0;
  double least = here->seconds / size;
  for (const auto& [s, seconds] : points_) {
    if (s > 0 && s <= size) least = std::min(least, seconds / s);
  }
  return least;
}

}  // namespace shardwright
