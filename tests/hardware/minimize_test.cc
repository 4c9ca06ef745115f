#include "hardware/minimize.h"

#include <doctest/doctest.h>

#include <cmath>

using doctest::Approx;
using namespace shardwright;

TEST_CASE("the least of a function with a kink is found, by factors and by differences") {
  const auto cost = [](const std::vector<double>& x) { return std::abs(std::log(x[0] / 3)) + std::abs(x[1] - 0.2); };
  const std::vector<double> found = minimize(cost, {{0.01, 100, 1}, {0, 1, 0.9}}, 2000);
  CHECK(found[0] == Approx(3).epsilon(0.01));
  CHECK(found[1] == Approx(0.2).epsilon(0.01));
}

TEST_CASE("numbers stay in their ranges") {
  const auto cost = [](const std::vector<double>& x) { return -x[0] + x[1]; };
  const std::vector<double> found = minimize(cost, {{1, 2, 5}, {0, 1, -3}}, 500);  // starts beyond them, too
  CHECK(found[0] == Approx(2));
  CHECK(found[1] == Approx(0));
}

TEST_CASE("the same search finds the same bits") {
  const auto cost = [](const std::vector<double>& x) { return std::abs(x[0] * x[0] - 0.3) + std::abs(x[1] - x[0]); };
  CHECK(minimize(cost, {{0, 1, 0.5}, {0, 1, 0.5}}, 100) == minimize(cost, {{0, 1, 0.5}, {0, 1, 0.5}}, 100));
}
