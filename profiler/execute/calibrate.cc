#include "profiler/execute/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "hardware/measured_times.h"
#include "planner/pricer.h"

namespace shardwright {
namespace {

struct Weighted {
  double value, weight;
};

/// The smallest value up to which half of the weight lies.
double weighted_median(std::vector<Weighted> all) {
  std::sort(all.begin(), all.end(), [](const Weighted& a, const Weighted& b) { return a.value < b.value; });
  const double half =
      0.5 * std::accumulate(all.begin(), all.end(), 0.0, [](double sum, const Weighted& w) { return sum + w.weight; });
  double sum = 0;
  for (const Weighted& w : all)
    if ((sum += w.weight) >= half) return w.value;
  return all.back().value;
}

/// `ratios`: measured / predicted.
double median_error(std::vector<Weighted> ratios, double factor) {
  for (Weighted& w : ratios) w.value = std::abs(factor / w.value - 1);
  return weighted_median(std::move(ratios));
}

std::map<KernelFamily, std::vector<Weighted>> ratios_by_family(const std::vector<TrialOperator>& operators) {
  std::map<KernelFamily, std::vector<Weighted>> ratios;
  for (const TrialOperator& o : operators)
    if (o.family && o.calls > 0 && o.measured > Seconds{} && o.predicted && *o.predicted > Seconds{})
      ratios[*o.family].push_back({o.measured / *o.predicted, o.predicted->value});
  return ratios;
}

bool answers_for(const Measurements& measured, KernelFamily family) {
  if (measured.table(family).size() > 0) return true;
  return family == KernelFamily::grouped_gemm && measured.table(KernelFamily::gemm).size() > 0;
}

Machine with_calibration(Machine machine, Calibration calibration) {
  machine.measured = machine.measured->calibrated(std::move(calibration));
  return machine;
}

/// What was run, the best before and the best now, each layout once.
std::vector<RankedTwice> ranked_twice(PlanRequest request, const Layout& run, const Calibration& calibration) {
  LayoutPins free;
  free.overlap_on = request.pins.overlap_on;
  free.overlap_off = request.pins.overlap_off;
  request.pins = free;
  PlanRequest now = request;
  now.machine = with_calibration(request.machine, calibration);
  std::vector<RankedTwice> all = {{run, {}, {}}};
  for (const PlanRequest* asked : {&request, &now})
    for (const PricedLayout& p : plan(*asked).plans)
      if (std::none_of(all.begin(), all.end(), [&](const RankedTwice& r) { return r.layout == p.layout; }))
        all.push_back({p.layout, {}, {}});
  Pricer before(request), after(now);
  for (RankedTwice& r : all) {
    r.before = before.price(r.layout).step;
    r.after = after.price(r.layout).step;
  }
  const auto rank = [&](Seconds RankedTwice::*by, std::size_t RankedTwice::*place) {
    std::stable_sort(all.begin(), all.end(), [&](const auto& a, const auto& b) { return a.*by < b.*by; });
    for (std::size_t i = 0; i < all.size(); ++i) all[i].*place = i + 1;
  };
  rank(&RankedTwice::before, &RankedTwice::rank_before);
  rank(&RankedTwice::after, &RankedTwice::rank_after);
  return all;
}

}  // namespace

std::vector<FamilyCalibration> residuals(const std::vector<TrialOperator>& operators, const std::string& date) {
  std::vector<FamilyCalibration> found;
  for (const auto& [family, ratios] : ratios_by_family(operators)) {
    if (static_cast<int>(ratios.size()) < kFewestCalibrated) continue;
    FamilyCalibration f{family, weighted_median(ratios), static_cast<int>(ratios.size()), date};
    f.error_before = median_error(ratios, 1);
    f.error_after = median_error(ratios, f.factor);
    if (f.error_after >= f.error_before) {
      f.factor = 1;
      f.error_after = f.error_before;
    }
    found.push_back(f);
  }
  return found;
}

std::string beyond_calibration(const std::vector<FamilyCalibration>& found) {
  for (const FamilyCalibration& f : found)
    if (!(f.factor <= kMostCalibration && f.factor >= 1 / kMostCalibration))
      return fmt::format("{} took {:.4g} times as long as was measured: this is not the machine that was",
                         name_of(f.family), f.factor);
  return "";
}

CalibratedRun calibrate(const PlanRequest& request, const Layout& layout, int stage, Trial trial,
                        const std::string& date) {
  PlanRequest uncalibrated = request;
  uncalibrated.machine = with_calibration(request.machine, {});
  for (TrialOperator& o : trial.operators) o.predicted.reset();
  add_predictions(trial, Pricer(uncalibrated).operator_times(layout, stage));
  CalibratedRun run;
  const MeasuredTimes& measured = *request.machine.measured;
  run.calibration = measured.calibration();
  for (TrialOperator& o : trial.operators)
    if (o.family && !answers_for(measured.measurements(), *o.family)) o.family.reset();
  run.found = residuals(trial.operators, date);
  for (const FamilyCalibration& f : run.found) run.calibration.set(f);
  for (const auto& [family, ratios] : ratios_by_family(trial.operators))
    if (static_cast<int>(ratios.size()) < kFewestCalibrated) run.too_few.push_back(family);
  run.ranking = ranked_twice(request, layout, run.calibration);
  return run;
}

}  // namespace shardwright
