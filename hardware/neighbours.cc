#include "hardware/neighbours.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

namespace shardwright {
namespace {

constexpr std::int32_t kLeaf = 8;
/// A box is looked into when it may hold a sample nearer than half the distance of the farthest neighbour so far: the
/// search is approximate, and up to twice as fast for it.
constexpr float kHaste = 4;
/// Scatter of values that agree by chance is not zero.
constexpr float kLeastScatter = 1e-4f;

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto at = std::min(values.size() - 1, static_cast<std::size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

double square(double x) { return x * x; }

/// A small generator, the same on every machine (Marsaglia 2003, "Xorshift RNGs").
class Draw {
 public:
  std::size_t below(std::size_t n) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::size_t>(state_ % n);
  }

 private:
  std::uint64_t state_ = 88172645463325252u;
};

/// The neighbours of a point as the fit sees them: features from the point, values, weights.
struct Local {
  static constexpr int kMost = 48;
  int count = 0, features = 0;
  std::array<Features, kMost> from;
  std::array<float, kMost> value;
  std::array<float, kMost> near;    // weights by distance
  std::array<float, kMost> weight;  // and by agreement
  float near_sum = 0;
};

/// Weights by how far a value is from the weighted median: some kernels were timed with a wrongly chosen algorithm,
/// off by factors of 2 and 3.
void weigh_by_agreement(Local& l) {
  std::array<std::pair<float, float>, Local::kMost> sorted;
  for (int i = 0; i < l.count; ++i) sorted[static_cast<std::size_t>(i)] = {l.value[i], l.near[i]};
  std::sort(sorted.begin(), sorted.begin() + l.count);
  float below = 0, median = 0;
  for (int i = 0; i < l.count && below < l.near_sum / 2; ++i) {
    below += sorted[static_cast<std::size_t>(i)].second;
    median = sorted[static_cast<std::size_t>(i)].first;
  }
  float scatter = 0;
  for (int i = 0; i < l.count; ++i) scatter += l.near[i] * std::abs(l.value[i] - median);
  scatter = scatter / l.near_sum + kLeastScatter;
  for (int i = 0; i < l.count; ++i) l.weight[i] = l.near[i] / (std::abs(l.value[i] - median) / scatter + 0.5f);
}

/// value + slope . from
struct Plane {
  float value = 0;
  Features slope = {};
};

/// Weighted least squares about the weighted means, slopes penalised by ridge x the weights' sum (Cholesky).
Plane fit_plane(const Local& l, float ridge) {
  const int n = l.features;
  float sum = 0, mean_value = 0;
  Features mean = {};
  for (int i = 0; i < l.count; ++i) {
    sum += l.weight[i];
    mean_value += l.weight[i] * l.value[i];
    for (int d = 0; d < n; ++d) mean[d] += l.weight[i] * l.from[i][d];
  }
  mean_value /= sum;
  for (int d = 0; d < n; ++d) mean[d] /= sum;

  float a[kMostFeatures][kMostFeatures] = {}, right[kMostFeatures] = {};
  for (int i = 0; i < l.count; ++i) {
    Features c;
    for (int d = 0; d < n; ++d) c[d] = l.from[i][d] - mean[d];
    for (int d = 0; d < n; ++d) {
      const float f = l.weight[i] * c[d];
      for (int e = 0; e <= d; ++e) a[d][e] += f * c[e];
      right[d] += f * (l.value[i] - mean_value);
    }
  }
  float root[kMostFeatures][kMostFeatures], z[kMostFeatures];
  for (int d = 0; d < n; ++d) {
    for (int e = 0; e <= d; ++e) {
      float v = a[d][e] + (d == e ? ridge * sum : 0);
      for (int f = 0; f < e; ++f) v -= root[d][f] * root[e][f];
      root[d][e] = d == e ? std::sqrt(std::max(v, 1e-20f)) : v / root[e][e];
    }
    float v = right[d];
    for (int f = 0; f < d; ++f) v -= root[d][f] * z[f];
    z[d] = v / root[d][d];
  }
  Plane plane{mean_value, {}};
  for (int d = n - 1; d >= 0; --d) {
    float v = z[d];
    for (int f = d + 1; f < n; ++f) v -= root[f][d] * plane.slope[f];
    plane.slope[d] = v / root[d][d];
    plane.value -= plane.slope[d] * mean[d];
  }
  return plane;
}

/// Root of the weighted mean square of what the plane leaves of the values.
double residual_of(const Local& l, const Plane& plane) {
  float sum = 0;
  for (int i = 0; i < l.count; ++i) {
    float rest = l.value[i] - plane.value;
    for (int d = 0; d < l.features; ++d) rest -= plane.slope[d] * l.from[i][d];
    sum += l.near[i] * rest * rest;
  }
  return std::sqrt(sum / l.near_sum);
}

/// Distance from the point to the neighbours' weighted centre: near 0 between samples, large away from them.
double offset_of(const Local& l) {
  float squares = 0;
  for (int d = 0; d < l.features; ++d) {
    float mean = 0;
    for (int i = 0; i < l.count; ++i) mean += l.near[i] * l.from[i][d];
    squares += mean * mean;
  }
  return std::sqrt(squares) / l.near_sum;
}

}  // namespace

Neighbours::Neighbours(std::vector<Sample> samples, const Metric& metric)
    : metric_(metric), samples_(std::move(samples)) {
  assert(metric.features <= kMostFeatures && metric.neighbours <= kMostNeighbours && kMostNeighbours == Local::kMost);
  if (samples_.empty()) return;
  low_ = range_of(0, static_cast<std::int32_t>(samples_.size()), high_);
  for (int d = 0; d < metric_.features; ++d)
    if (low_[d] == high_[d]) metric_.scale[d] = 0;
  for (Sample& s : samples_) s.at = scaled(s.at);
  nodes_.reserve(samples_.size() / 2 + 1);
  split(0, static_cast<std::int32_t>(samples_.size()));
  if (samples_.size() >= kFewest) calibrate();
}

Features Neighbours::scaled(Features at) const {
  for (int d = 0; d < metric_.features; ++d) at[d] *= metric_.scale[d];
  return at;
}

Features Neighbours::range_of(std::int32_t begin, std::int32_t end, Features& high) const {
  Features low = high = samples_[static_cast<std::size_t>(begin)].at;
  for (std::int32_t i = begin; i < end; ++i) {
    const Features& at = samples_[static_cast<std::size_t>(i)].at;
    for (int d = 0; d < metric_.features; ++d) {
      low[d] = std::min(low[d], at[d]);
      high[d] = std::max(high[d], at[d]);
    }
  }
  return low;
}

std::int32_t Neighbours::split(std::int32_t begin, std::int32_t end) {
  const auto id = static_cast<std::int32_t>(nodes_.size());
  Node node{begin, end, -1, {}, {}};
  node.low = range_of(begin, end, node.high);
  nodes_.push_back(node);
  if (end - begin <= kLeaf) return id;
  int widest = 0;
  for (int d = 1; d < metric_.features; ++d)
    if (node.high[d] - node.low[d] > node.high[widest] - node.low[widest]) widest = d;
  const std::int32_t middle = begin + (end - begin) / 2;
  std::nth_element(samples_.begin() + begin, samples_.begin() + middle, samples_.begin() + end,
                   [&](const Sample& a, const Sample& b) { return a.at[widest] < b.at[widest]; });
  split(begin, middle);
  const std::int32_t right = split(middle, end);
  nodes_[static_cast<std::size_t>(id)].right = right;
  return id;
}

float Neighbours::box_distance2(const Node& node, const Features& at) const {
  float sum = 0;
  for (int d = 0; d < metric_.features; ++d) {
    const float e = std::max(std::max(node.low[d] - at[d], at[d] - node.high[d]), 0.f);
    sum += e * e;
  }
  return sum;
}

void Neighbours::visit_leaf(const Node& node, const Features& at, const Hole& hole, Nearest& nearest) const {
  const auto top = nearest.found.begin();
  for (std::int32_t i = node.begin; i < node.end; ++i) {
    const Sample& s = samples_[static_cast<std::size_t>(i)];
    if (s.site == hole.site) continue;
    if (hole.feature >= 0 && hole.sign * (s.at[hole.feature] - at[hole.feature]) > -hole.gap) continue;
    float distance2 = 0;
    for (int d = 0; d < metric_.features; ++d) distance2 += (s.at[d] - at[d]) * (s.at[d] - at[d]);
    if (distance2 < hole.radius2) continue;
    if (nearest.count < metric_.neighbours) {
      nearest.found[static_cast<std::size_t>(nearest.count++)] = {distance2, i};
    } else if (distance2 < top->distance2) {
      std::pop_heap(top, top + nearest.count);
      *(top + nearest.count - 1) = {distance2, i};
    } else {
      continue;
    }
    std::push_heap(top, top + nearest.count);
  }
}

void Neighbours::search(std::int32_t id, const Features& at, const Hole& hole, Nearest& nearest) const {
  const Node& node = nodes_[static_cast<std::size_t>(id)];
  if (node.right < 0) return visit_leaf(node, at, hole, nearest);
  std::int32_t first = id + 1, second = node.right;
  float to_first = box_distance2(nodes_[static_cast<std::size_t>(first)], at),
        to_second = box_distance2(nodes_[static_cast<std::size_t>(second)], at);
  if (to_second < to_first) {
    std::swap(first, second);
    std::swap(to_first, to_second);
  }
  const auto may_hold = [&](float distance2) {
    return nearest.count < metric_.neighbours || distance2 * kHaste < nearest.found[0].distance2;
  };
  if (may_hold(to_first)) search(first, at, hole, nearest);
  if (may_hold(to_second)) search(second, at, hole, nearest);
}

Neighbours::Fit Neighbours::fit(const Features& at, const Hole& hole) const {
  Nearest nearest;
  search(0, at, hole, nearest);
  Fit fit;
  fit.count = nearest.count;
  if (nearest.count == 0) return fit;

  Local l;
  l.count = nearest.count;
  l.features = metric_.features;
  const float beyond2 = nearest.found[0].distance2 * 1.1f + 1e-12f;  // the farthest weighs little
  float closest2 = nearest.found[0].distance2, low = INFINITY, high = -INFINITY;
  for (int i = 0; i < l.count; ++i) {
    const auto [distance2, index] = nearest.found[static_cast<std::size_t>(i)];
    const Sample& s = samples_[static_cast<std::size_t>(index)];
    for (int d = 0; d < l.features; ++d) l.from[i][d] = s.at[d] - at[d];
    l.value[i] = s.value;
    l.near[i] = (1 - distance2 / beyond2) / (distance2 + metric_.soft * metric_.soft);
    l.near_sum += l.near[i];
    closest2 = std::min(closest2, distance2);
    low = std::min(low, s.value);
    high = std::max(high, s.value);
  }
  weigh_by_agreement(l);
  const Plane plane = fit_plane(l, metric_.ridge);
  fit.value = std::clamp(plane.value, low, high);
  fit.spread = residual_of(l, plane);
  fit.offset = offset_of(l);
  fit.nearest = std::sqrt(closest2);
  return fit;
}

double Neighbours::sigma_of(const Fit& fit) const {
  const double far = std::max(0.0, fit.offset - reach_);
  return std::sqrt(square(spread_factor_ * fit.spread) + square(floor_) + square(far_slope_ * far));
}

std::optional<Reading> Neighbours::read(const Features& at, std::optional<std::int32_t> left_out) const {
  if (!calibrated_) return std::nullopt;
  const Fit found = fit(scaled(at), {.site = left_out.value_or(-1)});
  if (found.count == 0) return std::nullopt;
  Reading reading{found.value, sigma_of(found), found.nearest};
  reading.outside = found.offset > 2 * reach_;
  for (int d = 0; d < metric_.features; ++d) {
    const bool beyond = at[d] < low_[d] || at[d] > high_[d];
    reading.off_constant = reading.off_constant || (beyond && low_[d] == high_[d]);
    reading.outside = reading.outside || (beyond && (d < metric_.main_features || low_[d] == high_[d]));
  }
  return reading;
}

void Neighbours::calibrate() {
  calibrated_ = calibrate_near();
  if (calibrated_) calibrate_far();
}

/// With the site of a sample left out, its distance from the others is that of a question between sites.
bool Neighbours::calibrate_near() {
  constexpr std::size_t kTried = 500;
  const std::size_t n = samples_.size();
  Draw draw;
  std::vector<double> errors, spreads, offsets;
  for (std::size_t i = 0; i < std::min(n, kTried); ++i) {
    const Sample& s = samples_[n <= kTried ? i : draw.below(n)];
    const Fit found = fit(s.at, {.site = s.site});
    if (found.count == 0) continue;
    errors.push_back(std::abs(found.value - static_cast<double>(s.value)));
    spreads.push_back(found.spread);
    offsets.push_back(found.offset);
  }
  reach_ = quantile(offsets, 0.9);
  floor_ = 0.25 * quantile(errors, 0.68);
  std::vector<double> factors;
  for (std::size_t i = 0; i < errors.size(); ++i)
    factors.push_back(std::sqrt(std::max(0.0, square(errors[i]) - square(floor_))) /
                      (spreads[i] + static_cast<double>(kLeastScatter)));
  spread_factor_ = quantile(factors, 0.68);
  return errors.size() >= kFewest;
}

/// A ball around a sample left out, or all on one side of it.
void Neighbours::calibrate_far() {
  constexpr std::size_t kTried = 250;
  Draw draw;
  std::vector<double> slopes;
  const int sides = std::min(metric_.main_features, metric_.features);
  for (std::size_t i = 0; i < kTried; ++i) {
    const Sample& s = samples_[draw.below(samples_.size())];
    Hole hole{.site = s.site};
    if (i % 3 == 0 || sides == 0) {
      hole.radius2 = static_cast<float>(square(3 * reach_));
    } else {
      hole.feature = static_cast<int>(draw.below(static_cast<std::size_t>(sides)));
      hole.sign = draw.below(2) == 0 ? -1.f : 1.f;
      hole.gap = 0.7f * static_cast<float>(draw.below(4)) * metric_.scale[hole.feature];
    }
    const Fit found = fit(s.at, hole);
    if (found.count == 0 || found.offset <= 1.2 * reach_) continue;
    const double rest =
        square(found.value - static_cast<double>(s.value)) - square(spread_factor_ * found.spread) - square(floor_);
    slopes.push_back(std::sqrt(std::max(0.0, rest)) / (found.offset - reach_));
  }
  far_slope_ = quantile(slopes, 0.68);
}

}  // namespace shardwright
