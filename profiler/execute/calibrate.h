#pragma once

#include <string>
#include <vector>

#include "hardware/calibration.h"
#include "planner/plan.h"
#include "profiler/execute/trial.h"

namespace shardwright {

/// Of fewer operators no family is calibrated: one that is odd would speak for all.
inline constexpr int kFewestCalibrated = 3;

/// How much longer than predicted each family's operators took: the median of measured / predicted, an operator
/// counting by its predicted time. `operators` have predictions by what was measured, uncalibrated: so whatever was
/// known of a family does not count again. Families of fewer than kFewestCalibrated operators are left out. The errors
/// are such medians, too; where the factor would not lessen the error it is 1.
std::vector<FamilyCalibration> residuals(const std::vector<TrialOperator>& operators, const std::string& date);

/// "" or which factor is none that a machine may be calibrated by (kMostCalibration).
std::string beyond_calibration(const std::vector<FamilyCalibration>& found);

/// A layout of the plan's question, priced with what was known before the run and with what is known now.
struct RankedTwice {
  Layout layout;
  Seconds before, after;
  std::size_t rank_before = 0, rank_after = 0;  ///< from 1
};

struct CalibratedRun {
  Calibration calibration;               ///< of the machine from now on
  std::vector<FamilyCalibration> found;  ///< of this run
  std::vector<KernelFamily> too_few;     ///< that the run had, of fewer than kFewestCalibrated operators
  std::vector<RankedTwice> ranking;      ///< the run's, the best before it and the best now, by now
};

/// What `trial`, a run of `layout` whose operators are those of `stage`, says of the machine of `request`, which was
/// measured. Families without a table are left alone: no measurement answers for them.
CalibratedRun calibrate(const PlanRequest& request, const Layout& layout, int stage, Trial trial,
                        const std::string& date);

}  // namespace shardwright
