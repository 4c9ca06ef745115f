#include "profiler/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace shardwright {

MedianTime median_time(std::vector<Seconds> times) {
  constexpr std::size_t kFewest = 6;  // 2 / 2^6 < 5 %
  std::sort(times.begin(), times.end());
  const std::size_t n = times.size();
  if (n == 0) return {{}, std::numeric_limits<double>::infinity()};
  const Seconds median = n % 2 ? times[n / 2] : (times[n / 2 - 1] + times[n / 2]) * 0.5;
  if (n < kFewest) return {median, std::numeric_limits<double>::infinity()};
  const auto count = static_cast<double>(n);
  // Its place counts from 1.
  const auto low = static_cast<std::size_t>(std::max(0.0, std::floor((count - 1.96 * std::sqrt(count)) / 2) - 1));
  const std::size_t high = n - 1 - low;
  return {median, 0.5 * ((times[high] - times[low]) / median)};
}

}  // namespace shardwright
