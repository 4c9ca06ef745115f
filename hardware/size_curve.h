#pragma once

#include <optional>
#include <utility>
#include <vector>

namespace shardwright {

/// Times along one size (bytes, tokens), all else the same.
class SizeCurve {
 public:
  /// Ascending sizes; of one size that comes again the least time counts.
  void add(double size, double seconds);

  std::size_t points() const { return points_.size(); }
  double size(std::size_t i) const { return points_[i].first; }
  double seconds(std::size_t i) const { return points_[i].second; }

  struct Reading {
    double seconds = 0;
    double doubt = 0;  // half the difference, as a logarithm, of two ways to read it
    bool outside = false;
  };
  /// Between two sizes time is linear in them: a latency and a rate. Beyond the ends the last two go on, but time
  /// neither falls with size nor does a smaller size take more of it in proportion: never less time per size than the
  /// ends have (below), never less time (above). `skip`: as if that point had not been measured. Nothing of fewer than
  /// two points.
  std::optional<Reading> at(double size, std::optional<std::size_t> skip = {}) const;

  /// The least of time over size among all sizes up to this one; 0 of fewer than two points.
  double least_slope(double size) const;

 private:
  std::vector<std::pair<double, double>> points_;
};

}  // namespace shardwright
