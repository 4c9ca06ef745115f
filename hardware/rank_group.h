#pragma once

#include <cstdint>

namespace shardwright {

/// Ranks that communicate with each other, seen from any one of them: a product of at most `kMaxFactors` strided runs
/// on the line of global ranks. {size 4, stride 8} are ranks 0, 8, 16, 24 and every translate of them. Factors are
/// ordered by growing stride; neighbours that join into one run are joined, so equal groups compare equal.
struct RankGroup {
  static constexpr int kMaxFactors = 4;
  struct Factor {
    std::int32_t size = 1;
    std::int64_t stride = 1;
    bool operator==(const Factor&) const = default;
  };
  Factor factors[kMaxFactors] = {};
  int count = 0;

  bool operator==(const RankGroup&) const = default;

  /// Ranks in the group; 1 for the empty product.
  std::int64_t size() const;

  /// Adds a factor of a larger stride than all before it; a size of 1 adds nothing.
  void add(std::int32_t size, std::int64_t stride);

  /// How many of its members share one aligned unit of `unit` neighbouring ranks (a node, a rail group), as the largest
  /// count that holds for every translate of the group: a run that straddles units is counted by its even part
  /// (tp 6 on nodes of 8 ranks: 2). At least 1, divides size().
  std::int64_t members_within(std::int64_t unit) const;
};

}  // namespace shardwright
