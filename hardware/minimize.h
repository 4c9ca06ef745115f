#pragma once

#include <functional>
#include <vector>

namespace shardwright {

/// A number to be chosen.
struct Range {
  double least = 0, most = 1, start = 0;
};

/// Numbers in their ranges at which `cost` is small, found by NLopt's Sbplx (T. Rowan's Subplex, a simplex search in
/// subspaces; it needs no derivatives and bears kinks). `evaluations`: how often cost may be asked. Deterministic.
std::vector<double> minimize(const std::function<double(const std::vector<double>&)>& cost,
                             const std::vector<Range>& ranges, int evaluations);

}  // namespace shardwright
