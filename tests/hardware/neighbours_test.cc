#include "hardware/neighbours.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <random>

using namespace shardwright;

namespace {

const Metric kPlane = {
    .features = 2, .scale = {1, 1}, .neighbours = 12, .soft = 0.2f, .ridge = 0.001f, .main_features = 2};

using Surface = std::function<double(double, double)>;

/// A sample at each of 20 x 20 places, one site a row; `noise` is one sigma.
std::vector<Sample> grid(const Surface& surface, double noise = 0) {
  std::mt19937 random(3);
  std::normal_distribution<double> error(0, 1);
  std::vector<Sample> samples;
  for (int x = 0; x < 20; ++x)
    for (int y = 0; y < 20; ++y)
      samples.push_back({{static_cast<float>(x), static_cast<float>(y)},
                         static_cast<float>(surface(x, y) + noise * error(random)),
                         x * 20 + y});
  return samples;
}

Features at(double x, double y) { return {static_cast<float>(x), static_cast<float>(y)}; }

}  // namespace

TEST_CASE("a plane is reproduced between its samples and a smooth surface nearly so") {
  const Surface plane = [](double x, double y) { return 0.1 * x - 0.03 * y + 1; };
  const Surface smooth = [](double x, double y) { return std::sin(x / 6) + std::cos(y / 8); };
  const Neighbours planes(grid(plane), kPlane), waves(grid(smooth), kPlane);
  for (double x = 3.3; x < 16; x += 1.7) {
    for (double y = 3.1; y < 16; y += 1.3) {
      CHECK(planes.read(at(x, y))->value == doctest::Approx(plane(x, y)).epsilon(0.005));
      CHECK(std::abs(waves.read(at(x, y))->value - smooth(x, y)) < 0.01);
      CHECK_FALSE(waves.read(at(x, y))->outside);
    }
  }
  CHECK(planes.read(at(3, 4))->nearest == doctest::Approx(0));
  CHECK(planes.read(at(3.5, 4))->nearest == doctest::Approx(0.5));
}

TEST_CASE("what lies beyond the samples is told, its error grows, and its value stays among theirs") {
  const Neighbours n(grid([](double x, double y) { return 0.1 * x * x + 0.05 * y; }), kPlane);
  const Reading inside = *n.read(at(10.5, 10.5)), near = *n.read(at(21, 10.5)), far = *n.read(at(40, 10.5));
  CHECK_FALSE(inside.outside);
  CHECK(near.outside);
  CHECK(far.outside);
  CHECK(inside.sigma < near.sigma);
  CHECK(near.sigma < far.sigma);
  CHECK(far.value <= 0.1 * 19 * 19 + 0.05 * 19);
  CHECK(n.read(at(10, 19.5))->outside);  // any main feature
}

TEST_CASE("a hole among the samples is outside, though all sides of it are known") {
  std::vector<Sample> samples;
  for (const Sample& s : grid([](double x, double y) { return x + y; }))
    if (s.at[0] < 6 || s.at[0] > 14) samples.push_back(s);
  Metric metric = kPlane;
  metric.neighbours = 8;
  const Neighbours n(samples, metric);
  CHECK(n.read(at(8, 10))->outside);
  CHECK_FALSE(n.read(at(4, 10))->outside);
}

TEST_CASE("sigma holds 68 percent of the errors of samples that are left out") {
  // Twice as many samples as a calibration looks at.
  const Surface surface = [](double x, double y) { return std::sin(x / 3) * std::cos(y / 4); };
  std::vector<Sample> samples = grid(surface, 0.1);
  for (Sample& s : grid([&](double x, double y) { return surface(x + 0.5, y + 0.5); }, 0.05)) {
    samples.push_back({at(s.at[0] + 0.5, s.at[1] + 0.5), s.value, 400 + s.site});
  }
  const Neighbours n(samples, kPlane);
  int within = 0, within_two = 0;
  for (const Sample& s : samples) {
    const Reading r = *n.read(s.at, s.site);
    within += std::abs(r.value - s.value) <= r.sigma;
    within_two += std::abs(r.value - s.value) <= 2 * r.sigma;
  }
  CHECK(within > 0.64 * 800);
  CHECK(within < 0.72 * 800);
  CHECK(within_two > 0.85 * 800);
}

TEST_CASE("one sample that is off by a factor of two moves its neighbours little") {
  std::vector<Sample> samples = grid([](double, double) { return 1; });
  samples[10 * 20 + 10].value = 2;
  // It is the nearest of all, and would make up more than a quarter by its distance.
  CHECK(Neighbours(samples, kPlane).read(at(10.4, 10.4))->value < 1.2);
}

TEST_CASE("a site that is left out is not looked at") {
  std::vector<Sample> samples = grid([](double x, double) { return 1 + 0.01 * x; });
  for (Sample& s : samples) s.site = static_cast<std::int32_t>(s.at[0]);
  for (Sample& s : samples)
    if (s.site == 7) s.value = 100;
  const Neighbours n(samples, kPlane);
  CHECK(n.read(at(7, 7))->value > 50);
  CHECK(n.read(at(7, 7), 7)->value == doctest::Approx(1.07).epsilon(0.002));
  CHECK(n.read(at(7, 7), 7)->nearest == doctest::Approx(1));
}

TEST_CASE("a feature in which all samples agree is no distance, but leaving it is outside") {
  const Neighbours n(grid([](double x, double y) { return x + y; }), [] {
    Metric metric = kPlane;
    metric.features = 3;
    metric.scale[2] = 100;
    return metric;
  }());
  Features off = at(10, 10);
  off[2] = 1;
  const Reading on = *n.read(at(10, 10)), beside = *n.read(off);
  CHECK(on.value == beside.value);
  CHECK_FALSE(on.outside);
  CHECK_FALSE(on.off_constant);
  CHECK(beside.outside);
  CHECK(beside.off_constant);
}

TEST_CASE("too few samples answer nothing") {
  std::vector<Sample> samples;
  for (std::size_t count = 0; count < 20; ++count) {
    CAPTURE(count);
    const Neighbours n(samples, kPlane);
    CHECK(n.size() == count);
    CHECK(n.can_read() == (count >= Neighbours::kFewest));
    CHECK(n.read(at(1, 1)).has_value() == n.can_read());
    const auto x = static_cast<float>(count);
    samples.push_back({{x, x}, 2 * x, static_cast<std::int32_t>(count)});
  }
  for (Sample& s : samples) s.site = 0;  // nothing tells how wrong a reading would be
  CHECK_FALSE(Neighbours(samples, kPlane).can_read());
  for (Sample& s : samples) s = {{1, 1}, 3, s.site = static_cast<std::int32_t>(&s - samples.data())};  // one place
  CHECK(Neighbours(samples, kPlane).read(at(1, 1))->value == doctest::Approx(3));
}

TEST_CASE("the same samples give the same readings") {
  const std::vector<Sample> samples = grid([](double x, double y) { return std::sin(x * y); }, 0.1);
  const Neighbours a(samples, kPlane), b(samples, kPlane);
  for (double x = -2; x < 25; x += 0.7) {
    CHECK(a.read(at(x, 9.3))->value == b.read(at(x, 9.3))->value);
    CHECK(a.read(at(x, 9.3))->sigma == b.read(at(x, 9.3))->sigma);
  }
}
