#include "hardware/moe_curve.h"

#include <doctest/doctest.h>

#include <random>

using doctest::Approx;
using namespace shardwright;

namespace {

/// 1e10 operations a second; memory as given.
Machine round_machine(double bandwidth) {
  Machine machine;
  machine.peak = {{DataType::bf16, FlopsPerSecond{1e10}}};
  machine.memory_bandwidth = {bandwidth};
  return machine;
}

/// 200 pairs on 10 experts of 3 x 100 x 50.
MoeLayerSpec layer() {
  return {.tokens = 100, .hidden_size = 100, .intermediate_size = 50, .n_routed_experts = 10, .num_experts_per_tok = 2};
}

}  // namespace

TEST_CASE("a layer of experts costs its products where memory is fast") {
  const Machine machine = round_machine(1e18);
  MoeCurve curve;
  MoeLayerSpec spec = layer();
  // 2 x 200 x 3 x 100 x 50 = 6e6 operations.
  CHECK(seconds(curve, spec, machine) == Approx(6e-4));
  curve.launch_seconds = 1;
  curve.peak_fraction = 0.5;
  CHECK(seconds(curve, spec, machine) == Approx(1 + 12e-4));
  curve = {};
  curve.tile_rows = 10;  // 100 more
  CHECK(seconds(curve, spec, machine) == Approx(9e-4));
  curve = {};
  curve.k_half = 100;  // 2 x 50 x (100 + 100) + 100 x (50 + 100)
  CHECK(seconds(curve, spec, machine) == Approx(2 * 200 * 35'000 / 1e10));
  curve = {};
  curve.token_seconds = 2e-6;
  CHECK(seconds(curve, spec, machine) == Approx(6e-4 + 2e-4));
  spec.gated = false;
  CHECK(seconds({}, spec, machine) == Approx(4e-4));
  spec.ep = 2;
  CHECK(seconds({}, spec, machine) == Approx(2e-4));
  spec.etp = 2;
  CHECK(seconds({}, spec, machine) == Approx(1e-4));
}

TEST_CASE("a layer of experts reads the weights of those that are hit") {
  const Machine machine = round_machine(1e6);
  MoeCurve curve;
  MoeLayerSpec spec = layer();
  // 10 x 3 x 100 x 50 x 2 bytes.
  CHECK(seconds(curve, spec, machine) == Approx(0.3));
  curve.memory_fraction = 0.5;
  CHECK(seconds(curve, spec, machine) == Approx(0.6));
  curve.expert_seconds = 0.01;
  CHECK(seconds(curve, spec, machine) == Approx(0.7));
  spec.weights = StoredType::fp8;
  CHECK(seconds(curve, spec, machine) == Approx(0.4));
  spec.tokens = 2;  // four pairs
  CHECK(seconds(curve, spec, machine) == Approx(0.16));
  curve = {};
  curve.activation_passes = 3;  // of 4 x 2 x (100 + 50) elements of 2 bytes
  CHECK(seconds(curve, spec, machine) == Approx(0.06 + 3 * 2400 / 1e6));
  curve = {};
  curve.join = 1;  // 1.2e5 operations after the traffic
  CHECK(seconds(curve, spec, machine) == Approx(0.06 + 1.2e-5));
}

TEST_CASE("balanced pairs are dealt out in turn, a rank has one at least") {
  MoeLayerSpec spec = layer();
  spec.tokens = 3;
  CHECK(busiest_load(spec, 1).rows == 6);
  CHECK(busiest_load(spec, 1).hit == 6);
  spec.ep = 10;
  spec.tokens = 1;
  CHECK(busiest_load(spec, 1).rows == 1);
  CHECK(busiest_load(spec, 1).hit == 1);
}

TEST_CASE("under a power law some experts have no pairs and one rank has more than its share") {
  MoeLayerSpec spec = layer();
  spec.tokens = 10;
  spec.power_law = 1;
  // Loads 1/x over 1 .. 8, 7 / ln 8 = 3.366 on average: of 20 pairs on 10 experts the least load has more than half.
  CHECK(busiest_load(spec, 1).hit == Approx(10));
  spec.n_routed_experts = 40;
  // Those above 3.366 x 40 / 20 / 2 have one: 1 - ln 3.366 / ln 8 = 0.41628 of them.
  CHECK(busiest_load(spec, 1).hit == Approx(16.651).epsilon(1e-4));
  CHECK(busiest_load(spec, 1).rows == 20);
  spec.ep = 2;
  // (63 / 2 / ln 8) / 3.366^2 - 1 = 0.3368 of variance, over 20 experts; sqrt(2 ln 2) deviations.
  CHECK(busiest_load(spec, 1).rows == Approx(11.528).epsilon(1e-4));
  CHECK(busiest_load(spec, 2).rows == Approx(13.056).epsilon(1e-4));
  CHECK(busiest_load(spec, 1).hit == Approx(8.3256).epsilon(1e-4));
  CHECK(busiest_load(spec, 100).rows == 20);  // all pairs there are
  spec.eplb = true;
  CHECK(busiest_load(spec, 1).rows == 10);
}

TEST_CASE("large layers have 64 pairs an expert") {
  MoeLayerSpec spec = layer();
  spec.tokens = 320;
  CHECK(is_large(spec));
  spec.tokens = 319;
  CHECK_FALSE(is_large(spec));
}

TEST_CASE("more tokens take no less") {
  std::mt19937 random(7);
  const auto size = [&](unsigned most) { return std::int64_t{1} + static_cast<std::int64_t>(random() % most); };
  const Machine machine = round_machine(1e9);
  for (int i = 0; i < 3000; ++i) {
    MoeCurve curve;
    for (const Coefficient<MoeCurve>& c : coefficients<MoeCurve>())
      curve.*c.value = c.least + (c.most - c.least) * static_cast<double>(random() % 1001) / 1000;
    MoeLayerSpec spec{.hidden_size = 8 * size(500),
                      .intermediate_size = 8 * size(500),
                      .n_routed_experts = 8 * size(32),
                      .num_experts_per_tok = size(8),
                      .ep = std::int64_t{1} << (random() % 4)};
    spec.power_law = static_cast<double>(random() % 3) * 0.6;
    double least = 0;
    for (spec.tokens = 1; spec.tokens < 20'000; spec.tokens += size(static_cast<unsigned>(spec.tokens))) {
      const double time = seconds(curve, spec, machine);
      CHECK(time >= least * (1 - 1e-9));
      least = time;
    }
  }
}
