#include "hardware/gemm_curve.h"

#include <doctest/doctest.h>

#include <random>

#include "hardware/steady_line.h"

using doctest::Approx;
using namespace shardwright;

namespace {

/// 100 multiprocessors of 1e9 operations a second, memory out of the way.
Machine round_machine() {
  Machine machine;
  machine.multiprocessors = 100;
  machine.peak = {{DataType::bf16, FlopsPerSecond{1e11}}, {DataType::fp8, FlopsPerSecond{2e11}}};
  machine.memory_bandwidth = {1e18};
  return machine;
}

/// One tile for each count of rows: 64 x 64 to 64, 64 x 128 to 128, then 128 x 128.
GemmCurve by_rows() {
  GemmCurve curve;
  curve.tiles = GemmTiles::by_rows;
  return curve;
}

double seconds(const GemmCurve& curve, const GemmSpec& spec, const Machine& machine = round_machine()) {
  return seconds(curve, products_of(spec), machine);
}

/// 110 tiles of 128 x 128, 1.1 waves of 2 x 128 x 128 x 1000 operations at 1e9.
constexpr GemmSpec kEleven{.m = 256, .n = 7040, .k = 1000};
constexpr double kWave = 32.768e-3;

}  // namespace

TEST_CASE("products that fill the machine run at the peak") {
  // 2,560 x 1,280 x 1,000 x 2 operations at 1e11.
  CHECK(seconds({}, {.m = 2560, .n = 1280, .k = 1000}) == Approx(65.536e-3));
  GemmCurve curve;
  curve.peak_fraction = 0.5;
  curve.launch_seconds = 1;
  CHECK(seconds(curve, {.m = 2560, .n = 1280, .k = 1000}) == Approx(1 + 131.072e-3));
}

TEST_CASE("the last wave costs a full one where waves are steps") {
  GemmCurve curve = by_rows();
  CHECK(seconds(curve, kEleven) == Approx(1.1 * kWave));
  curve.wave_step = 1;
  CHECK(seconds(curve, kEleven) == Approx(2 * kWave));
  curve.wave_step = 0.5;
  CHECK(seconds(curve, kEleven) == Approx(1.55 * kWave));
}

TEST_CASE("rows choose the tile where a library has one for each count of them") {
  // Waves never cost less than one: 2 x 64 x 64 x 1,000 operations at 1e9, then twice that, then four times.
  CHECK(seconds(by_rows(), {.m = 64, .n = 64, .k = 1000}) == Approx(8.192e-3));
  CHECK(seconds(by_rows(), {.m = 65, .n = 64, .k = 1000}) == Approx(2 * 16.384e-3 / 2));
  CHECK(seconds(by_rows(), {.m = 129, .n = 64, .k = 1000}) == Approx(kWave));
}

TEST_CASE("a short sum runs below its final rate") {
  GemmCurve curve = by_rows();
  curve.k_half = 1000;
  CHECK(seconds(curve, kEleven) == Approx(2 * 1.1 * kWave));
}

TEST_CASE("few tiles cut a long sum over idle multiprocessors") {
  // One tile of 64 x 64: a hundredth of k is 128, the least part.
  GemmCurve curve;
  CHECK(seconds(curve, {.m = 64, .n = 64, .k = 12'800}) == Approx(8192 * 128 / 1e9));
  CHECK(seconds(curve, {.m = 64, .n = 64, .k = 6400}) == Approx(8192 * 128 / 1e9));
  CHECK(seconds(curve, {.m = 64, .n = 64, .k = 25'600}) == Approx(8192 * 256 / 1e9));
  curve.k_half = 10;
  curve.split_k = 100;
  CHECK(seconds(curve, {.m = 64, .n = 64, .k = 12'800}) == Approx(8192 * 238 / 1e9));
}

TEST_CASE("smaller tiles load more for what they do") {
  // I = 64 of a tile of 128 x 128 against 256 x 128 / 384 = 85.33 of the largest: 64 / 128 x 149.33 / 85.33 = 0.875.
  GemmCurve curve = by_rows();
  curve.tile_half = 64;
  CHECK(seconds(curve, kEleven) == Approx(1.1 * kWave / 0.875));
}

TEST_CASE("long kernels are throttled, odd rows cost more") {
  GemmCurve curve = by_rows();
  curve.throttle = 0.5;
  curve.throttle_seconds = 1.1 * kWave;
  CHECK(seconds(curve, kEleven) == Approx(1.1 * kWave * 1.25));
  curve.throttle = 0;
  curve.odd_rows = 0.2;
  CHECK(seconds(curve, kEleven) == Approx(1.1 * kWave));
  GemmSpec odd = kEleven;
  odd.m = 255;
  CHECK(seconds(curve, odd) == Approx(1.1 * kWave * 1.2));
}

TEST_CASE("loop and traffic join") {
  Machine machine = round_machine();
  // 2 x (256 x 1,000 + 1,000 x 7,040 + 256 x 7,040) = 18,196,480 bytes in 4/3 of the loop.
  machine.memory_bandwidth = {2 * 18'196'480 / (4.0 / 3 * 1.1 * kWave)};
  GemmCurve curve = by_rows();
  curve.memory_fraction = 0.5;
  CHECK(seconds(curve, kEleven, machine) == Approx(4.0 / 3 * 1.1 * kWave));  // the longer
  curve.join = 2;
  CHECK(seconds(curve, kEleven, machine) == Approx(5.0 / 3 * 1.1 * kWave));  // 3, 4, 5
  curve.join = 1;
  CHECK(seconds(curve, kEleven, machine) == Approx(7.0 / 3 * 1.1 * kWave));
}

TEST_CASE("activations are cast to narrow types before they are multiplied") {
  Machine machine = round_machine();
  machine.memory_bandwidth = {3e6};
  GemmCurve curve = by_rows();
  curve.row_seconds = 1;
  curve.cast_fraction = 0.5;
  curve.memory_fraction = 0.25;
  GemmSpec spec{.m = 10, .n = 100, .k = 1000, .type = DataType::fp8};
  // Traffic: 10,000 + 100,000 bytes and 2 x 1,000 of the result at 0.75e6. Cast: 10 rows, 3 x 10,000 bytes at 1.5e6.
  CHECK(seconds(curve, spec, machine) == Approx(112e3 / 0.75e6 + 10 + 0.02));
  CHECK(steady_seconds(curve, products_of(spec), machine) == Approx(112e3 / 0.75e6 + 10 + 0.02));
  spec.cast = false;
  CHECK(seconds(curve, spec, machine) == Approx(112e3 / 0.75e6));
  CHECK(steady_seconds(curve, products_of(spec), machine) == Approx(112e3 / 0.75e6));
  spec.type = DataType::bf16;
  CHECK(seconds(curve, spec, machine) == Approx(2 * 111e3 / 0.75e6));
}

TEST_CASE("weights, results and sums have widths of their own") {
  const Products p = products_of(GemmSpec{.weights = StoredType::int4, .result = StoredType::fp32, .accumulate = true});
  CHECK(p.a_bytes == 2);
  CHECK(p.b_bytes == 0.5);
  CHECK(p.c_bytes == 8);
  CHECK(products_of(GemmSpec{.type = DataType::fp8}).c_bytes == 2);
}

TEST_CASE("the steady time leaves out launch, unfilled tiles and waves, and splits") {
  GemmCurve curve;
  curve.launch_seconds = 1;
  curve.k_half = 100;
  curve.split_k = 1000;
  curve.wave_step = 1;
  // 11 x 7 x (900 + 100) multiply-adds at 1e11 operations a second.
  CHECK(steady_seconds(curve, products_of(GemmSpec{.m = 11, .n = 7, .k = 900}), round_machine()) ==
        Approx(2 * 77e3 / 1e11));
  CHECK(steady_seconds(curve, products_of(GemmSpec{.m = 0, .n = 7, .k = 900}), round_machine()) == 0);
}

TEST_CASE("of throttle the steady time has what a launch makes up for") {
  GemmCurve curve;
  curve.throttle = 1;
  curve.throttle_seconds = 4;
  curve.launch_seconds = 3;
  // The tangent at l = 4, where s is a half, gives up 4 / 4 of the launch: 3 + l + l^2 / (l + 4) is 9 there, 2 + 1.75
  // x 4.
  CHECK(steady_line(curve).launch == Approx(2));
  CHECK(steady_line(curve).slope == Approx(1.75));
  curve.launch_seconds = 0.25;  // all of it: s is a quarter
  CHECK(steady_line(curve).launch == 0);
  CHECK(steady_line(curve).slope == Approx(1 + 1 - 0.75 * 0.75));
  curve.throttle = 0;
  CHECK(steady_line(curve).launch == 0.25);
  CHECK(steady_line(curve).slope == 1);
}

TEST_CASE("parts of products never beat the whole's steady time, and more work takes no less") {
  std::mt19937 random(7);
  const auto size = [&](unsigned most) { return std::int64_t{1} + static_cast<std::int64_t>(random() % most); };
  Machine machine = round_machine();
  machine.memory_bandwidth = {1e9};
  for (int i = 0; i < 3000; ++i) {
    GemmCurve curve;
    for (const Coefficient<GemmCurve>& c : coefficients<GemmCurve>())
      curve.*c.value = c.least + (c.most - c.least) * static_cast<double>(random() % 1001) / 1000;
    curve.tiles = random() % 2 ? GemmTiles::any : GemmTiles::by_rows;
    const GemmSpec part{.m = size(3000),
                        .n = size(3000),
                        .k = size(20000),
                        .batch = size(9),
                        .type = random() % 2 ? DataType::bf16 : DataType::fp8};
    const std::int64_t parts = size(64);
    const double whole_part = seconds(curve, part, machine);
    const double busy = whole_part - steady_line(curve).launch;
    for (std::int64_t GemmSpec::*parted : {&GemmSpec::m, &GemmSpec::n, &GemmSpec::k, &GemmSpec::batch}) {
      GemmSpec whole = part;
      whole.*parted *= parts;
      CHECK(steady_seconds(curve, products_of(whole), machine) <= static_cast<double>(parts) * busy * (1 + 1e-9));
      if (curve.tiles == GemmTiles::any && (parted != &GemmSpec::m || part.m % 8 == 0))
        CHECK(seconds(curve, whole, machine) >= whole_part);
    }
  }
}
