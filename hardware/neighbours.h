#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace shardwright {

constexpr int kMostFeatures = 12;
using Features = std::array<float, kMostFeatures>;

/// What "near" means among points, and how a value is read off between them.
struct Metric {
  int features = 0;
  Features scale = {};    // distance^2 = sum of (scale x difference)^2
  int neighbours = 16;    // that are asked; at most 48
  float soft = 0.1f;      // a neighbour weighs 1 / (distance^2 + soft^2)
  float ridge = 0.01f;    // penalty of slopes, as a share of the weights
  int main_features = 3;  // the first ones: beyond what the samples cover of them is outside
};

/// A value at a point. Samples of one site (all sizes of one layer, say) are left out together when the error of a
/// reading is estimated, since they are nearer to each other than questions will be to them.
struct Sample {
  Features at = {};
  float value = 0;
  std::int32_t site = 0;
};

/// A value read off between samples.
struct Reading {
  double value = 0;
  double sigma = 0;           // its error: holds 68 %
  double nearest = 0;         // distance to the nearest sample
  bool outside = false;       // beyond the samples: off by more than between them is usual, or beyond their range
  bool off_constant = false;  // differs in a feature in which all samples agree
};

/// Values at scattered points, read off anywhere: the nearest samples are found in a k-d tree, and a plane through them
/// is fitted by weighted ridge regression (local regression: Cleveland and Devlin 1988,
/// doi 10.1080/01621459.1988.10478639), samples that disagree with the median of the others weighing less. The value
/// stays inside the range of the neighbours' values, so that nothing runs away outside. How wrong it is was tried on
/// the samples themselves when the index was made: sites left out tell the error between samples, holes around a sample
/// the error away from them. A feature in which all samples agree says nothing and is left out of the distance.
/// Deterministic.
class Neighbours {
 public:
  /// Fewer samples say nothing about their error, so there are no readings.
  static constexpr std::size_t kFewest = 8;

  Neighbours(std::vector<Sample> samples, const Metric& metric);

  std::size_t size() const { return samples_.size(); }
  bool can_read() const { return calibrated_; }

  /// Nothing where fewer than kFewest samples have another site, or there are none but those of `left_out`.
  std::optional<Reading> read(const Features& at, std::optional<std::int32_t> left_out = {}) const;

 private:
  /// Samples that a calibration does not look at.
  struct Hole {
    std::int32_t site = -1;
    float radius2 = 0;  // those as near as that
    int feature = -1;   // those on one side of the point
    float sign = 1, gap = 0;
  };
  struct Found {
    float distance2;
    std::int32_t sample;
    bool operator<(const Found& other) const { return distance2 < other.distance2; }
  };
  static constexpr int kMostNeighbours = 48;
  /// A heap with the farthest on top.
  struct Nearest {
    std::array<Found, kMostNeighbours> found;
    int count = 0;
  };
  struct Node {
    std::int32_t begin, end;
    std::int32_t right = -1;  // the left child is the next node; leaves have none
    Features low, high;
  };
  struct Fit {
    double value = 0, spread = 0, offset = 0, nearest = 0;
    int count = 0;
  };

  Features scaled(Features at) const;
  Features range_of(std::int32_t begin, std::int32_t end, Features& high) const;
  std::int32_t split(std::int32_t begin, std::int32_t end);
  float box_distance2(const Node& node, const Features& at) const;
  void search(std::int32_t node, const Features& at, const Hole& hole, Nearest& nearest) const;
  void visit_leaf(const Node& node, const Features& at, const Hole& hole, Nearest& nearest) const;
  Fit fit(const Features& at, const Hole& hole) const;
  double sigma_of(const Fit& fit) const;
  void calibrate();
  bool calibrate_near();
  void calibrate_far();

  Metric metric_;
  std::vector<Sample> samples_;  // scaled
  std::vector<Node> nodes_;
  Features low_ = {}, high_ = {};  // of the samples, not scaled
  bool calibrated_ = false;
  // sigma^2 = (spread_factor x spread of the neighbours)^2 + floor^2 + (far_slope x (offset beyond reach))^2
  double spread_factor_ = 1, floor_ = 0, reach_ = 0, far_slope_ = 0;
};

}  // namespace shardwright
