#pragma once

#include <cstdint>
#include <vector>

namespace shardwright {

/// All of `n`, the least first. Precondition: n > 0, and it fits an int.
inline std::vector<int> divisors(std::int64_t n) {
  std::vector<int> small, large;
  for (std::int64_t d = 1; d * d <= n; ++d)
    if (n % d == 0) {
      small.push_back(static_cast<int>(d));
      if (d != n / d) large.push_back(static_cast<int>(n / d));
    }
  small.insert(small.end(), large.rbegin(), large.rend());
  return small;
}

}  // namespace shardwright
