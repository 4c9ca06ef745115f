#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hardware/calibration.h"
#include "hardware/machine.h"
#include "hardware/measurements.h"
#include "hardware/quantities.h"
#include "models/model.h"
#include "planner/engine/engine.h"
#include "planner/layout.h"
#include "planner/pipeline/trace.h"
#include "planner/search/money.h"
#include "planner/shard/traffic.h"
#include "planner/workload.h"

namespace shardwright {

/// What fills one GPU of a stage.
struct MemoryParts {
  Bytes weights, gradients, optimizer;
  Bytes activations;  ///< kept from forward to backward, all micro-batches in flight
  /// The most that is alive besides: inside one graph's forward or backward, or in the optimizer, which keeps no
  /// activations but may widen its gradients.
  Bytes transient;
  /// Pipeline receive buffers, gathered parameters and unsharded gradients of ZeRO, what stands for gradients that
  /// products add themselves, workspaces of libraries.
  Bytes buffers;
  Bytes total() const { return weights + gradients + optimizer + activations + transient + buffers; }
  bool operator==(const MemoryParts&) const = default;
};

struct StageMemory {
  MemoryParts parts;
  Bytes allocated;  ///< parts.total()
  /// The same tensors in an allocator that hands out pages (memory.h) and has holes between them (MemoryHabits); it has
  /// Machine::usable_memory().
  Bytes reserved;
  bool operator==(const StageMemory&) const = default;
};

/// What one step is predicted to take. Times are those of the slowest stage unless said otherwise. Exposed is what of a
/// communication runs while nothing computes.
struct Prediction {
  Seconds step, step_low, step_high;  ///< the interval is one of 80 % (Pricer::half_width)
  double tokens_per_second = 0, tokens_per_second_per_gpu = 0;
  FlopsPerSecond model_flops_per_gpu;  ///< forward and backward, causal half of attention, logits, no recompute
  double mfu = 0;                      ///< of the peak rate of the precision
  Seconds compute, communication, exposed_communication, bubble, optimizer;  ///< with the exposed part and `host` they
                                                                             ///< add up to `step`
  Seconds host;  ///< while a GPU waits for the host: launches, counts of rows, and what every step takes
  TrafficTimes traffic, exposed;  ///< of communication and of what of it is exposed, by parallelism
  std::vector<StageMemory> stages;
  std::vector<Seconds> idle;  ///< of the step, by stage: `bubble` is the slowest stage's, others wait for that, too
  int worst_stage = 0;        ///< of reserved memory
  std::array<double, 4> source_share = {};  ///< of what kernels and collectives take, by CostSource; plan and estimate
                                            ///< say it
  double gpu_hours_per_trillion_tokens = 0;
  std::optional<double> cost_per_trillion_tokens;  ///< with the machine's price

  const StageMemory& worst() const { return stages[static_cast<std::size_t>(worst_stage)]; }
};

/// Why a layout is no answer. `reason` is one of a short list that searches count by (see search.h); `detail` has the
/// numbers.
struct Rejection {
  std::string reason, detail;
  bool operator==(const Rejection&) const = default;
};

struct PricedLayout {
  Layout layout;
  DataType precision = DataType::bf16;
  bool fits = false;
  std::optional<Rejection> rejection;    ///< present exactly when it does not fit or cannot be
  std::optional<Prediction> prediction;  ///< absent when it cannot be computed
  bool ties = false;                     ///< of a plan: a run may find it to be the fastest (ties_with)
  std::vector<std::string> assumed;      ///< keys that the planner filled in, in the order of to_string(Layout)
};

/// A layout that a search priced in full and that fits, without all that is known of it.
struct PricedPoint {
  Layout layout;
  DataType precision = DataType::bf16;
  Seconds step;
  Bytes reserved;  ///< on the fullest stage
};

struct SearchSummary {
  std::int64_t considered = 0, priced = 0, pruned = 0;
  std::map<std::string, std::int64_t> rejected;  ///< by reason; "memory" only where it was looked at (search.h)
  double seconds = 0;                            ///< filled in by who has a clock: planner/cli
  bool proven_best = false;
};

/// The question.
struct PlanRequest {
  Model model;
  Machine machine;
  std::int64_t gpus = 0;
  Workload workload;
  Engine engine;
  DataType precision = DataType::bf16;
  bool any_precision = false;
  LayoutPins pins;
  std::vector<Schedule>
      more_schedules;  ///< to be tried, too: of those that are not unless they are asked for (search.h)
  int top = 10;
  int rejected_examples = 0;  ///< how many rejected layouts of each reason an answer names
  int threads = 0;            ///< 0 = as many as there are cores
  /// Told now and then, by the thread that asks, how far a search is: so many of all families of layouts.
  std::function<void(std::size_t done, std::size_t all)> progress;
};

/// A kernel or collective whose time is not measured. Calls and seconds are those of one GPU in one step of each of
/// the layouts asked about, on the mean of its stages, hidden ones, too.
struct UnmeasuredKernel {
  KernelSpec spec;
  CostSource source = CostSource::datasheet;
  double relative_error = 0;
  double calls = 0;
  Seconds seconds;
  double share = 0;  ///< of the seconds of all kernels, measured ones, too
  Seconds doubt() const { return seconds * relative_error; }
};

/// The answer to `plan` and `estimate`.
struct PlanResult {
  std::string model, machine, engine;
  std::int64_t gpus = 0;
  Workload workload;        ///< formats as used
  Calibration calibration;  ///< of what was measured on the machine
  DataType precision = DataType::bf16;
  bool is_estimate = false;
  SearchSummary search;             ///< of a plan only
  std::vector<PricedLayout> plans;  ///< best first; an estimate has exactly one
  /// Least reserved memory for each throughput, fastest first, down to half the throughput of the first.
  std::vector<PricedLayout> pareto;
  std::vector<PricedPoint> priced;                          ///< SearchSummary::priced of a plan, fastest first
  std::vector<PricedLayout> nearest;                        ///< when nothing fits: the layouts that miss by least
  std::vector<PricedLayout> rejected;                       ///< examples of each reason (SearchAnswer::rejected)
  std::optional<std::vector<UnmeasuredKernel>> unmeasured;  ///< where it was asked for
  std::optional<RunCost> run;                               ///< with the first plan; where it was asked for
  std::vector<TriedGpus> tried;                             ///< where the fewest GPUs were asked for (goals.h)
  std::string unreachable;                                  ///< why no number of GPUs reaches it
  std::optional<std::int64_t> sequence_unit;  ///< the sequence is the longest multiple of this with which anything fits
};

/// One row of the memory list behind a stage's total.
struct MemoryItem {
  std::string part, tensor;  ///< part: a member of MemoryParts
  Bytes bytes;               ///< all copies
  std::int64_t copies = 1;   ///< layers x micro-batches in flight
};

/// The question without an answer.
PlanResult empty_result(const PlanRequest& request);

/// Every layout of the request's space, best first. Throws InputError when a pin cannot hold (tp 6 on 1024 GPUs).
PlanResult plan(const PlanRequest& request);

/// One layout: degrees that are not pinned are 1 (dp follows; etp is the engine's), the order of ranks is tp-cp-dp-pp,
/// the schedule 1f1b or interleaved, the rest is the fastest that fits, else the smallest.
PlanResult estimate(const PlanRequest& request);

/// The tensors behind the memory of `stage` of a layout that can be computed, largest first.
std::vector<MemoryItem> memory_items(const PlanRequest& request, const Layout& layout, int stage);

/// How many of tp, pp, cp and ep differ.
std::size_t different_degrees(const Layout& a, const Layout& b);

/// Whether the order of two layouts' steps is open: the 80 % interval of the ratio between them holds 1. Most of what
/// is off in one is off in the other, so it is narrower than those of the steps.
bool ties_with(const PricedLayout& a, const PricedLayout& b, const PredictionErrors& errors);

/// How many of ranked layouts tie with the first.
std::ptrdiff_t ties_with_best(const std::vector<PricedLayout>& plans);

/// Layouts whose step may be the shortest: the first (of those that fit, else of the nearest), and those that tie with
/// it.
std::vector<PricedLayout> rivals(const PlanResult& result);

/// What a measurement would settle, the most doubt first: the kernels of the rivals that were not measured, ordered by
/// the seconds that they may be wrong by, over all of those layouts together.
std::vector<UnmeasuredKernel> unmeasured_kernels(const PlanRequest& request, const PlanResult& result);

/// Every task of one step of a layout that can be computed, stage by stage, as the schedule plays them; then one layer
/// of each class by itself, with what runs on each stream.
std::vector<TraceSpan> trace_of(const PlanRequest& request, const Layout& layout);

/// "stage 3 needs 82.1 GiB of 78.9 GiB".
Rejection too_large(const Machine& machine, const Prediction& prediction);

}  // namespace shardwright
