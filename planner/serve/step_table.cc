#include "planner/serve/step_table.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

namespace shardwright {
namespace {

/// The greatest number with points: 2^24.
constexpr int kMostBits = 24, kPoints = 8 + 4 * (kMostBits - 3) + 2;

/// Between which points a number lies, and how far from the lower one.
struct Place {
  std::int64_t point = 0;
  double share = 0;
};

Place place_of(std::int64_t n) {
  if (n < 8) return {std::max<std::int64_t>(n, 0), 0};
  n = std::min(n, std::int64_t{1} << kMostBits);
  const int octave = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n))) - 1, fine = octave - 2;
  const std::int64_t rest = n - (std::int64_t{1} << octave);
  const std::int64_t quarter = rest >> fine, left = rest - (quarter << fine);
  return {8 + std::int64_t{octave - 3} * 4 + quarter,
          static_cast<double>(left) / static_cast<double>(std::int64_t{1} << fine)};
}

std::int64_t number_at(std::int64_t point) {
  if (point < 8) return point;
  const std::int64_t octave = 3 + (point - 8) / 4, quarter = (point - 8) % 4;
  return (4 + quarter) << (octave - 2);
}

std::size_t index(std::int64_t point) { return static_cast<std::size_t>(point); }

StepTable::Added operator+(const StepTable::Added& a, const StepTable::Added& b) {
  return {a.seconds + b.seconds, a.lag + b.lag};
}
StepTable::Added operator*(double s, const StepTable::Added& a) { return {s * a.seconds, s * a.lag}; }

/// A line's value at a place: the upper point is asked for only where it counts.
template <typename At>
auto on_line(const Place& place, const At& at) {
  const auto low = at(place.point);
  if (place.share == 0) return low;
  return (1 - place.share) * low + place.share * at(place.point + 1);
}

}  // namespace

StepTable::StepTable(PriceDecode decode, PricePrefill prefill)
    : price_decode_(std::move(decode)), price_prefill_(std::move(prefill)), decode_(kPoints), prefill_(kPoints) {}

double StepTable::decode_at(std::int64_t batch, std::int64_t context) {
  Row& row = decode_[index(batch)];
  if (row.empty()) row.assign(kPoints, NAN);
  double& known = row[index(context)];
  if (std::isnan(known)) known = price_decode_(number_at(batch), number_at(context));
  return known;
}

StepTable::Added StepTable::prefill_at(std::int64_t tokens, std::int64_t reach, std::int64_t batch) {
  Plane& plane = prefill_[index(batch)];
  if (plane.empty()) plane.assign(std::size_t{kPoints} * kPoints, {NAN, 0});
  Added& known = plane[index(tokens) * kPoints + index(reach)];
  if (std::isnan(known.seconds)) known = price_prefill_(number_at(tokens), number_at(reach), number_at(batch));
  return known;
}

double StepTable::decode(std::int64_t batch, std::int64_t context) {
  assert(batch > 0 && "a step without sequences");
  const Place b = place_of(batch), c = place_of(context);
  return on_line(b, [&](std::int64_t i) { return on_line(c, [&](std::int64_t j) { return decode_at(i, j); }); });
}

StepTable::Added StepTable::prefill(std::int64_t tokens, std::int64_t reach, std::int64_t batch) {
  const Place t = place_of(tokens), r = place_of(std::max<std::int64_t>(1, reach)), b = place_of(batch);
  return on_line(b, [&](std::int64_t i) {
    return on_line(t, [&](std::int64_t j) { return on_line(r, [&](std::int64_t k) { return prefill_at(j, k, i); }); });
  });
}

}  // namespace shardwright
