#include "profiler/execute/calibrate.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "planner/engine/engine.h"
#include "planner/pricer.h"
#include "tests/support/measured_machine.h"
#include "tests/support/tiny_runs.h"

using doctest::Approx;
using namespace shardwright;

namespace {

/// A small model for two ranks of a machine of which everything was measured in fp32.
PlanRequest question() {
  PlanRequest request;
  request.model = tiny_dense();
  request.machine = badly_measured(find_machine("h100-sxm-80gb"), 3, DataType::fp32);
  request.gpus = 2;
  request.workload.sequence_length = 32;
  request.workload.global_batch = 4;
  request.engine = find_engine("shardwright", "--engine");
  request.precision = DataType::fp32;
  request.pins.overlap_off = Overlaps::all();
  request.threads = 1;
  run_by(request.engine, request.precision, request.workload);
  return request;
}

Layout layout_of(PlanRequest request, const char* text) {
  request.pins = parse_layout(text, "--layout");
  request.pins.overlap_off = Overlaps::all();
  return estimate(request).plans.at(0).layout;
}

KernelFamily family_of(const OperatorTime& o) { return o.communicates ? KernelFamily::collective : o.family; }

/// As if products took so many times what was measured of them, and all else just that.
Trial run_of(const PlanRequest& uncalibrated, const Layout& layout, double products) {
  Trial trial;
  for (const OperatorTime& o : Pricer(uncalibrated).operator_times(layout, 0)) {
    TrialOperator done{o.graph, o.name, o.pass, o.communicates, o.calls, {}, {}};
    done.measured = (family_of(o) == KernelFamily::gemm ? products : 1) * o.seconds;
    trial.operators.push_back(done);
  }
  return trial;
}

constexpr const char* kToday = "2026-11-23";

}  // namespace

TEST_CASE("a family that is a fifth slower in a run is corrected, and the others are not touched") {
  const PlanRequest request = question();
  const Layout layout = layout_of(request, "tp=2,micro_batch=1");
  const CalibratedRun run = calibrate(request, layout, 0, run_of(request, layout, 1.2), kToday);
  REQUIRE(run.found.size() >= 2);
  for (const FamilyCalibration& f : run.found) {
    CAPTURE(name_of(f.family));
    const bool product = f.family == KernelFamily::gemm;
    CHECK(f.factor == Approx(product ? 1.2 : 1));
    CHECK(f.error_before == Approx(product ? 1 - 1 / 1.2 : 0));
    CHECK(f.error_after == Approx(0));
    CHECK(f.date == kToday);
  }
}

TEST_CASE("calibrating twice by the same run changes nothing") {
  PlanRequest request = question();
  const Layout layout = layout_of(request, "tp=2,micro_batch=1");
  const Trial trial = run_of(request, layout, 1.2);
  const CalibratedRun once = calibrate(request, layout, 0, trial, kToday);
  request.machine.measured = request.machine.measured->calibrated(once.calibration);
  const CalibratedRun twice = calibrate(request, layout, 0, trial, kToday);
  CHECK(to_yaml(twice.calibration) == to_yaml(once.calibration));
}

TEST_CASE("a layout that was run is calibrated as one that was not") {
  const PlanRequest request = question();
  const Layout run = layout_of(request, "tp=2,micro_batch=1"), other = layout_of(request, "dp=2,micro_batch=2");
  PlanRequest now = request;
  now.machine.measured =
      request.machine.measured->calibrated(calibrate(request, run, 0, run_of(request, run, 1.2), kToday).calibration);
  for (const Layout& layout : {run, other}) {
    const auto before = Pricer(request).operator_times(layout, 0), after = Pricer(now).operator_times(layout, 0);
    REQUIRE(before.size() == after.size());
    for (std::size_t i = 0; i < before.size(); ++i) {
      CAPTURE(before[i].name);
      const double factor = family_of(before[i]) == KernelFamily::gemm ? 1.2 : 1;
      CHECK(after[i].seconds.value == Approx(factor * before[i].seconds.value));
    }
  }
}

TEST_CASE("an operator that is odd in one layout does not speak for its family") {
  const PlanRequest request = question();
  const Layout layout = layout_of(request, "tp=2,micro_batch=1");
  Trial trial = run_of(request, layout, 1.2);
  for (TrialOperator& o : trial.operators)
    if (o.name == "q_proj" && o.pass == OperatorPass::forward) o.measured = 5 * o.measured;
  const CalibratedRun run = calibrate(request, layout, 0, trial, kToday);
  CHECK(run.calibration.factor(KernelFamily::gemm) == Approx(1.2));
}

TEST_CASE("two operators of a family are too few to tell, and what the plan does not price tells nothing") {
  const auto product = [](double measured) {
    return TrialOperator{"layer", "q", OperatorPass::forward, false, 1, {measured}, Seconds{1}, KernelFamily::gemm};
  };
  TrialOperator unpriced = product(7);
  unpriced.predicted.reset();
  CHECK(residuals({product(2), product(2), unpriced}, kToday).empty());
  // Of ratios 2, 3 and 4, each predicted to take a second.
  const auto found = residuals({product(2), product(4), product(3)}, kToday);
  REQUIRE(found.size() == 1);
  CHECK(found[0].factor == 3);
  CHECK(found[0].operators == 3);
  CHECK(found[0].error_before == Approx(1 - 1.0 / 3));  // of 1/2, 2/3, 3/4
  CHECK(found[0].error_after == Approx(0.25));          // of 1/2, 0, 1/4
}

TEST_CASE("a factor that would not lessen the error is left at one") {
  const auto product = [](double measured, double predicted) {
    return TrialOperator{"layer", "q",        OperatorPass::forward, false,
                         1,       {measured}, Seconds{predicted},    KernelFamily::gemm};
  };
  // Ratios 1, 2 and 10, of 45, 10 and 45 % of the time: the median, 2, leaves 80 % where 1 leaves 50 %.
  const auto found = residuals({product(4.5, 4.5), product(2, 1), product(45, 4.5)}, kToday);
  REQUIRE(found.size() == 1);
  CHECK(found[0].factor == 1);
  CHECK(found[0].error_before == Approx(0.5));
  CHECK(found[0].error_after == found[0].error_before);
}

TEST_CASE("a machine is not calibrated by what only another machine does") {
  const auto found = [](double factor) { return FamilyCalibration{KernelFamily::gemm, factor, 3, kToday}; };
  CHECK(beyond_calibration({found(1000), found(1e-3), found(1)}).empty());
  CHECK(beyond_calibration({found(1), found(2e-4)}) ==
        "gemm took 0.0002 times as long as was measured: this is not the machine that was");
  CHECK(beyond_calibration({found(1001)}) ==
        "gemm took 1001 times as long as was measured: this is not the machine that was");
}

TEST_CASE("layouts are ranked by what was known before a run, and by what is known after it") {
  const PlanRequest request = question();
  const Layout layout = layout_of(request, "tp=2,micro_batch=1");
  const CalibratedRun run = calibrate(request, layout, 0, run_of(request, layout, 50), kToday);
  PlanRequest now = request;
  now.machine.measured = request.machine.measured->calibrated(run.calibration);
  REQUIRE(run.ranking.size() >= 2);
  CHECK(std::any_of(run.ranking.begin(), run.ranking.end(), [&](const auto& r) { return r.layout == layout; }));
  Pricer before(request), after(now);
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < run.ranking.size(); ++i) {
    const RankedTwice& r = run.ranking[i];
    CHECK(r.rank_after == i + 1);
    CHECK(r.before == before.price(r.layout).step);
    CHECK(r.after == after.price(r.layout).step);
    if (i > 0) CHECK(run.ranking[i - 1].after <= r.after);
    places.push_back(r.rank_before);
    for (const RankedTwice& other : run.ranking)
      if (other.before < r.before) CHECK(other.rank_before < r.rank_before);
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 0; i < places.size(); ++i) CHECK(places[i] == i + 1);
}
