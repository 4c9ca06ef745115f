#pragma once

#include <cstdint>

namespace shardwright {

/// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014), as splitmix64. The standard
/// library's distributions differ from one implementation to the next; answers must not.
inline std::uint64_t next_random(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/// Above 0 and below 1, each as likely.
inline double random_share(std::uint64_t& state) {
  return (static_cast<double>(next_random(state) >> 11) + 0.5) * 0x1p-53;
}

}  // namespace shardwright
