#pragma once

#include <vector>

#include "hardware/quantities.h"

namespace shardwright {

/// A median, and how far off it may be: half of the distance between the times of order (n -+ 1.96 sqrt(n)) / 2, which
/// hold the true median in 95 of 100 cases whatever the distribution (David and Nagaraja, Order Statistics, 3rd ed.,
/// 2003, section 7.1), over the median. Infinite below 6 times, where no two of them hold it so surely.
struct MedianTime {
  Seconds median;
  double relative_error = 0;
};
MedianTime median_time(std::vector<Seconds> times);

}  // namespace shardwright
