#pragma once

#include <map>
#include <string>
#include <vector>

#include "planner/validate/validate.h"

namespace shardwright {

/// Clocks in a long run (Machine::sustained), as shares: of products in 16 bits and wider, in fewer, and of attention.
struct SustainedClock {
  double bf16 = 1, fp8 = 1, attention = 1;
  bool operator==(const SustainedClock&) const = default;
};

struct EngineFitOptions {
  int threads = 0;
  int least_rows = 20;                     ///< an engine with fewer has no constants of its own
  double least_gain = 0.01;                ///< nor one whose mean error falls by less
  double pull = 1e-5;                      ///< of a constant that differs by what is usual
  std::vector<std::string> left_out = {};  ///< sources that leave_one_source_out leaves out; empty: all
};

struct FittedEngine {
  int rows = 0;             ///< that the engine is judged by: of generic, all that no other has
  double median_error = 0;  ///< of those, |predicted / measured - 1|
  EngineConstants constants;
};

struct EngineFit {
  std::map<std::string, FittedEngine> engines;   ///< generic, and those with constants of their own
  std::map<std::string, SustainedClock> clocks;  ///< by chip_of, of those with rows
  int rows = 0, sources = 0;
  double median_error = 0;
  std::string newest;  ///< of the rows' dates; "" where none has one
};

/// Machines whose products slow down alike: "h100" of "h800-sxm-80gb", "b300" of "gb300-nvl72".
std::string chip_of(const std::string& machine);

/// Constants and clocks under which the published steps are predicted best: least soft-L1 of log(predicted / measured),
/// a source of n rows weighing as sqrt(n), so that large ones do not drown small ones, and a mild pull towards what
/// changes nothing (an engine's own constants: towards generic's; clocks: towards their mean). First generic's
/// constants and the clocks on all rows, then with an engine's own where it has enough rows and gains by them.
/// Gauss-Newton steps within the constants' ranges. The same for any number of threads.
EngineFit fit_engines(const std::vector<TimedStep>& steps, const EngineFitOptions& options);

/// Every source predicted by a fit to all others; `fit` is that to all of them. A search begins where `fit` ended, with
/// what no other source tells as if nothing were known, and goes on until it gains nothing: it finds what one from the
/// beginning does, sooner.
struct LeftOutSource {
  std::string source;
  int rows = 0;
  double median_error = 0, in_sample = 0;  ///< left out, and by `fit`
};
/// One step of a source that is left out.
struct LeftOutStep {
  double log = 0;           ///< of predicted / measured
  double kernel_width = 0;  ///< half of an 80 % interval of that log, from the errors of kernels and collectives alone
  bool fitted = false;      ///< its engine has constants of its own from other sources
  bool known_clock = false;
  double in_sample = 0;  ///< that log by the fit to all sources
  bool operator==(const LeftOutStep&) const = default;
};
struct LeftOutSources {
  std::vector<LeftOutSource> sources;  ///< by name
  double median_error = 0;             ///< over the rows of these, each left out with its source
  double in_sample = 0;                ///< the same by `fit`
  std::vector<LeftOutStep> steps;      ///< in the order of the steps asked about
};
LeftOutSources leave_one_source_out(const std::vector<TimedStep>& steps, const EngineFit& fit,
                                    const EngineFitOptions& options);

/// The errors that make intervals of 80 % hold. Who asks may run what some source did, or what none did, so each step
/// counts twice: as predicted by the fit to all, and with its source left out. Of engines with constants of their own
/// and of the others, with experts and without: the least width that holds 80 % together with what the kernels explain,
/// over the steps on machines with a known clock; a kind of fewer than 20 steps takes the width of all. Of an
/// unknown clock: what four in five of the fitted clocks stay below. Of ratios: the least width that holds 80 % of the
/// pairs inside families, n pairs of one weighing as sqrt(n).
ErrorRecord prediction_errors(const std::vector<TimedStep>& steps, const EngineFit& fit,
                              const LeftOutSources& left_out);

/// Of the steps that were left out, and of the same in sample, the share that their 80 % intervals hold; of the pairs
/// inside families, left out, the share that those of their ratio hold.
struct Coverage {
  double steps = 0, in_sample = 0, pairs = 0;
  int pair_count = 0;
};
Coverage coverage(const std::vector<TimedStep>& steps, const LeftOutSources& left_out, const ErrorRecord& errors);

/// The file that planner/engine/constants has; `date`: of the data, "" for the rows' newest. `errors`, where they are
/// known, keep their own date.
std::string engine_constants_yaml(const EngineFit& fit, const std::string& date,
                                  const std::optional<ErrorRecord>& errors = {});

}  // namespace shardwright
