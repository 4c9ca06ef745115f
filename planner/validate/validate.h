#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/measured_machine.h"
#include "planner/plan.h"

namespace shardwright {

/// Whether a collective stays inside one unit of the innermost links: a node, or an NVLink domain of several.
inline constexpr std::string_view kWithinNode = "within_node", kAcrossNodes = "across_nodes";

/// Whether prompts and answers have the same GPUs.
inline constexpr std::string_view kAggregated = "aggregated", kDisaggregated = "disaggregated";

/// One published number and its prediction.
struct ValidationRow {
  std::string id, source, family, kind, trust;
  bool suspect = false;  ///< carried, but no summary counts it
  std::string metric;    ///< the measured key's name; "oom" where only that was published
  std::optional<double> measured;
  double predicted = 0, predicted_low = 0, predicted_high = 0;  ///< an interval of 80 %
  std::optional<double> relative_error;                         ///< predicted / measured - 1
  bool layout_fits = false;
  std::vector<std::string> layout_assumed;  ///< layout keys that the planner filled in
  std::optional<double> time_error = {};    ///< kernel, collective: predicted time / measured time - 1, also of a
                                            ///< rate; absent where the row states its time beside that rate
  std::string span = {};                    ///< collective: kWithinNode or kAcrossNodes
  std::string engine = {};                  ///< by the row's software alone
  std::string model = {};                   ///< inference: the name of its description
  std::string serving = {};                 ///< inference: kAggregated or kDisaggregated
  std::string layout = {};                  ///< as priced: to_string(Layout)
  bool has_interval = true;                 ///< of its own: else the interval is the prediction alone
};

/// A row without a prediction. `reason` starts with one of these words; after ": " stands the detail.
///   kernel     no single kernel that its source states, or one that has no time here: "no curve for moe_layer"
///   machine    the catalog has no such GPU
///   model      an architecture that no graph is built for
///   layout     a choice that a Layout cannot say, or degrees that cannot be; of serving also none stated
///   engine     serving: software that no serving engine describes
///   workload   a size that is not stated, a task that is not pre-training or full fine-tuning; of serving a format
///              that is unknown, arrivals that are not stated (phases server and interactive)
///   metric     nothing was published that this version predicts
struct SkippedRow {
  std::string id, reason;
};

/// Relative errors of one metric of one kind of row: of all, of one source, or of one span of collectives. Those of
/// kernels and collectives are errors of the time, whichever metric was published.
struct ErrorSummary {
  std::string kind, metric, source;
  int n = 0;
  double mean_absolute = 0, median_absolute = 0, p90_absolute = 0, signed_median = 0;
  std::string span = {};
  int held = 0;              ///< of the n, those whose interval holds what was measured
  int without_interval = 0;  ///< of the n
};

/// Relative errors of one metric of serving rows, of one engine: of all its models ("") or of one.
struct ServingErrors {
  std::string serving, metric, engine, model;  ///< kAggregated or kDisaggregated
  int n = 0;
  double median_absolute = 0, p90_absolute = 0, signed_median = 0;
};

/// How many intervals of a kind's rows hold what was measured: of its kernels and collectives, and of training steps
/// by one published speed each.
struct IntervalSummary {
  std::string kind;
  int n = 0, held = 0;
};

/// Positive: out of memory. A true positive ran out and was predicted to.
struct OutOfMemory {
  int true_positive = 0, false_positive = 0, true_negative = 0, false_negative = 0;
};

/// How well layouts are ranked inside families of rows that differ in nothing else.
struct RankingSummary {
  int families = 0;
  double kendall_tau_mean = 0;
  double top_regret_mean = 0;  ///< time lost by taking the predicted best instead of the measured best
};

/// Whether a row states the choices that decide most about the speed of its layout: the planner filled in neither
/// micro_batch nor recompute.
bool states_speed(const std::vector<std::string>& layout_assumed);

struct Validation {
  std::vector<ValidationRow> rows;
  std::vector<SkippedRow> skipped;
  std::vector<ErrorSummary> summary;
  std::vector<ServingErrors> serving;  ///< ordered by serving, metric, engine, model
  std::vector<IntervalSummary> intervals;
  /// Absent without a family to rank; of all, and apart of those that say what tells their rows apart and the others.
  std::optional<RankingSummary> ranking, complete_ranking, incomplete_ranking;
  OutOfMemory out_of_memory;
};

/// A published training step: what it asks, with neutral constants and clocks, the layout as the planner completes it,
/// and the time of a step that its number means.
struct TimedStep {
  std::string id, source, measured_on;
  std::string family = {};  ///< "" where its row does not say all that decides its speed (states_speed)
  PlanRequest request;
  Layout layout;
  double seconds = 0;
};

/// The steps of `files` whose speed was published, of trust A and B and not suspect, that can be predicted. Throws
/// InputError.
std::vector<TimedStep> timed_steps(const std::vector<std::string>& files, int threads);

/// Predicts the rows of `files` (schema shardwright.measured/1). Every row id is in `rows` or in `skipped`. Rows of the
/// machine that was `measured` are asked with its measurements, uncalibrated: others' engines are not ours. Files of
/// our own runs bring their predictions along (validate_trials.h). Throws InputError.
Validation validate(const std::vector<std::string>& files, int threads,
                    const std::optional<MeasuredMachine>& measured = {});

}  // namespace shardwright
