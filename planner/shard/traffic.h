#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "hardware/quantities.h"

namespace shardwright {

/// The parallelism that a communication belongs to.
enum class Traffic : std::uint8_t { tensor, context, expert, data, pipeline };
inline constexpr int kTraffics = 5;
std::string_view name_of(Traffic);

/// A time for each.
struct TrafficTimes {
  std::array<Seconds, kTraffics> by_kind = {};
  Seconds& operator[](Traffic t) { return by_kind[static_cast<std::size_t>(t)]; }
  Seconds operator[](Traffic t) const { return by_kind[static_cast<std::size_t>(t)]; }
  Seconds total() const {
    Seconds sum;
    for (Seconds s : by_kind) sum += s;
    return sum;
  }
  TrafficTimes& add(double times, const TrafficTimes& more) {
    for (std::size_t k = 0; k < by_kind.size(); ++k) by_kind[k] += times * more.by_kind[k];
    return *this;
  }
  bool operator==(const TrafficTimes&) const = default;
};

}  // namespace shardwright
