#include "hardware/calibration.h"

#include <doctest/doctest.h>

#include "hardware/measured_times.h"
#include "tests/support/measured_machine.h"
#include "tests/support/message_of.h"
#include "tests/support/temporary_folder.h"

using doctest::Approx;
using namespace shardwright;

namespace {

Calibration slow_products(double factor) {
  Calibration calibration;
  calibration.set({KernelFamily::gemm, factor, 12, "2026-11-23", 0.2, 0.01});
  return calibration;
}

const MemorySpec kPass{{1 << 20}};
const GemmSpec kProduct{.m = 64, .n = 64, .k = 64}, kLarger{.m = 64, .n = 128, .k = 64},
    kLongest{.m = 64, .n = 256, .k = 64};

/// Products and passes of an H100; products take 1, 2 and 4 ms.
Machine machine_with(const Calibration& calibration) {
  Measurements measured;
  measured.add(table_of(KernelFamily::gemm, {{kProduct, 1e-3}, {kLarger, 2e-3}, {kLongest, 4e-3}}));
  measured.add(table_of(KernelFamily::memory, {{kPass, 5e-3}}));
  Machine machine = find_machine("h100-sxm-80gb");
  machine.sustained = {};
  machine = with_measurements(machine, std::move(measured));
  machine.measured = machine.measured->calibrated(calibration);
  return machine;
}

}  // namespace

TEST_CASE("a calibrated family takes so many times what was measured of it, and no other does") {
  const Machine machine = machine_with(slow_products(1.2));
  CHECK(look_up(kProduct, machine).time.value == Approx(1.2e-3));
  CHECK(look_up(kProduct, machine).source == CostSource::measured);
  CHECK(look_up(kPass, machine).time.value == Approx(5e-3));
  CHECK(look_up(kProduct, machine_with({})).time.value == Approx(1e-3));
}

TEST_CASE("a family that no run had is not calibrated by the one that answers for it") {
  const GroupedGemmSpec experts{.groups = 1, .m_per_group = 64, .n = 64, .k = 64};
  CHECK(look_up(experts, machine_with(slow_products(1.2))).time.value == look_up(experts, machine_with({})).time.value);
}

TEST_CASE("what no product of a calibrated machine beats is as much longer as they are") {
  CHECK(steady_time(kProduct, machine_with(slow_products(0.5))).value ==
        Approx(0.5 * steady_time(kProduct, machine_with({})).value));
}

TEST_CASE("the newest of a family counts, and calibrated measurements are calibrated anew, not again") {
  Calibration calibration = slow_products(1.2);
  calibration.set({KernelFamily::collective, 0.9, 5, "2026-11-24", 0.1, 0.02});
  calibration.set({KernelFamily::gemm, 1.5, 9, "2026-11-24", 0.3, 0.02});
  CHECK(to_string(calibration) == "gemm x 1.50, collective x 0.90");
  CHECK(calibration.factor(KernelFamily::memory) == 1);
  Machine machine = machine_with(slow_products(1.2));
  machine.measured = machine.measured->calibrated(slow_products(1.5));
  CHECK(look_up(kProduct, machine).time.value == Approx(1.5e-3));
}

TEST_CASE("a calibration is read back from its folder as it was written") {
  const TemporaryFolder folder;
  CHECK(read_calibration(folder.path()).families().empty());
  Calibration calibration = slow_products(1.25);
  calibration.set({KernelFamily::attention, 0.875, 4, "2026-11-24", 0.5, 0.125});
  folder.write("calibration.yaml", to_yaml(calibration));
  const Calibration read = read_calibration(folder.path());
  REQUIRE(read.families().size() == 2);
  const FamilyCalibration& attention = read.families()[1];
  CHECK(attention.family == KernelFamily::attention);
  CHECK(attention.factor == 0.875);
  CHECK(attention.operators == 4);
  CHECK(attention.date == "2026-11-24");
  CHECK(attention.error_before == 0.5);
  CHECK(attention.error_after == 0.125);
  CHECK(read.factor(KernelFamily::gemm) == 1.25);
}

TEST_CASE("a calibration that is none says where") {
  const TemporaryFolder folder;
  const std::string file = folder / "calibration.yaml";
  const auto complaint = [&](const std::string& text) {
    folder.write("calibration.yaml", text);
    const std::string all = message_of([&] { read_calibration(folder.path()); });
    return all.substr(0, all.find('\n'));
  };
  const std::string gemm =
      "{family: gemm, factor: 1.2, operators: 3, date: 2026-11-23, median_error_before: 0, median_error_after: 0}";
  CHECK(complaint("schema: shardwright.plan/1\nfamilies: []\n") ==
        file + ":1:9: 'schema' must be one of shardwright.calibration/1, got 'shardwright.plan/1'");
  CHECK(complaint("schema: shardwright.calibration/1\nfamilies: [" + gemm + ", " + gemm + "]\n") ==
        file + ":2:129: 'families[1].family' is there twice");
  CHECK(complaint("schema: shardwright.calibration/1\nfamilies: [{family: gemm, factor: 0}]\n") ==
        file + ":2:35: 'families[0].factor' must be between 0.001 and 1000, got 0");
}
