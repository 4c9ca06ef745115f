#include "hardware/size_curve.h"

#include <doctest/doctest.h>

#include <random>

using doctest::Approx;
using namespace shardwright;

namespace {

SizeCurve curve_of(std::initializer_list<std::pair<double, double>> points) {
  SizeCurve curve;
  for (const auto& [size, seconds] : points) curve.add(size, seconds);
  return curve;
}

}  // namespace

TEST_CASE("between two sizes time is linear, beyond them the last two go on") {
  const SizeCurve curve = curve_of({{10, 5}, {20, 6}, {40, 10}});
  CHECK(curve.at(10)->seconds == 5);
  CHECK(curve.at(15)->seconds == Approx(5.5));
  CHECK(curve.at(30)->seconds == Approx(8));
  CHECK(curve.at(0)->seconds == Approx(4));
  CHECK(curve.at(80)->seconds == Approx(18));
  CHECK_FALSE(curve.at(40)->outside);
  CHECK(curve.at(41)->outside);
  CHECK(curve.at(9)->outside);
  CHECK(curve.at(20)->doubt == Approx(0));
  CHECK(curve.at(30)->doubt > 0);
}

TEST_CASE("beyond the ends time neither falls nor comes for nothing") {
  const SizeCurve steep = curve_of({{10, 5}, {20, 15}});
  CHECK(steep.at(2)->seconds == Approx(1));  // in proportion, not 5 - 8
  const SizeCurve falling = curve_of({{10, 5}, {20, 4}});
  CHECK(falling.at(40)->seconds == 4);
  CHECK(falling.at(0)->seconds == Approx(6));
}

TEST_CASE("of a size that comes again the least time counts, and a size may be left out") {
  SizeCurve curve = curve_of({{10, 5}, {10, 4}, {10, 6}, {20, 9}});
  CHECK(curve.points() == 2);
  CHECK(curve.at(10)->seconds == 4);
  curve.add(30, 20);
  CHECK(curve.at(20, 1)->seconds == Approx(12));
  CHECK_FALSE(curve_of({{10, 5}, {20, 6}}).at(10, 0).has_value());
  CHECK_FALSE(SizeCurve().at(1).has_value());
  CHECK_FALSE(curve_of({{10, 5}}).at(10).has_value());
}

TEST_CASE("no size takes less time than the least slope up to a larger one") {
  CHECK(curve_of({{10, 5}, {20, 6}, {40, 10}}).least_slope(40) == Approx(0.25));
  CHECK(curve_of({{10, 5}, {20, 2}, {40, 10}}).least_slope(40) == Approx(0.1));
  CHECK(curve_of({{10, 5}, {20, 2}, {40, 10}}).least_slope(15) == Approx(3.5 / 15));
  CHECK(curve_of({{10, 5}}).least_slope(40) == 0);
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    SizeCurve curve;
    for (int size = 1; size < 100; size += 1 + static_cast<int>(random() % 20))
      curve.add(size, 1 + static_cast<double>(random() % 50));
    const double most = static_cast<double>(random() % 150) + 1;
    for (double size = 0.5; size <= most; size += 0.5)
      CHECK(curve.at(size)->seconds >= curve.least_slope(most) * size * (1 - 1e-12));
  }
}
