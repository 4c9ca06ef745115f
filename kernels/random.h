#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/on_device.h"

namespace shardwright {

/// A pseudo-random 64-bit number of an element: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
SHARDWRIGHT_BOTH std::uint64_t random_bits(std::uint64_t seed, std::uint64_t element) {
  std::uint64_t z = seed * 0xD1342543DE82EF95u + (element + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// Uniform in (0, 1].
SHARDWRIGHT_BOTH double uniform(std::uint64_t bits) { return static_cast<double>((bits >> 11) + 1) * 0x1p-53; }

/// Of a normal distribution around 0. Box and Muller's method: one normal number out of two uniform ones.
SHARDWRIGHT_BOTH double normal(std::uint64_t seed, std::int64_t element) {
  constexpr double kTurn = 6.283185307179586476925;
  const auto e = static_cast<std::uint64_t>(element);
  const double radius = sqrt(-2.0 * log(uniform(random_bits(seed, 2 * e))));
  return radius * cos(kTurn * uniform(random_bits(seed, 2 * e + 1)));
}

}  // namespace shardwright
