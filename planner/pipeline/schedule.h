#pragma once

#include <vector>

#include "hardware/quantities.h"
#include "planner/layout.h"
#include "planner/pipeline/order.h"

namespace shardwright {

/// A pipeline, but for its times. The model is cut into stages * chunks parts, in its order.
struct Pipeline {
  Schedule schedule = Schedule::one_f_one_b;
  int stages = 1;
  int chunks = 1;  // parts a stage: two in V shape (zb-v, dualpipe-v), two or more when interleaved, otherwise one
  int micro_batches = 1;
  bool paired = false;  // 1f1b and interleaved: a forward and the backward after it are a pair, one forward more ahead

  int parts() const { return stages * chunks; }
};

/// Throws std::invalid_argument for a pipeline that is none: no stage or micro-batch, chunks that the schedule has not,
/// interleaved micro-batches that are no multiple of the stages; pairs in a schedule that has none; fewer than two
/// micro-batches a part for dualpipe and dualpipe-v, odd stages or micro-batches for dualpipe.
void check(const Pipeline& pipeline);

/// What a schedule makes of backward.
enum class BackwardTasks {
  whole,  // one task
  split,  // input and weight gradient apart
  mixed   // some whole, some split, and pairs
};
BackwardTasks backward_tasks(Schedule schedule);

/// Whether some forwards and backwards run at once.
bool has_pairs(const Pipeline& pipeline);

/// Whether the orders depend on the times and on what is kept.
bool is_greedy(Schedule schedule);

/// A chunk of a stage.
struct Place {
  int stage = 0, chunk = 0;
  bool operator==(const Place&) const = default;
};

/// Which part of the model each chunk is, and so where a micro-batch goes next. Part by part along a route: stage by
/// stage and round again (most schedules); to the last stage and back to the first (V shape); or one route from either
/// end, so that every part is on two stages (dualpipe).
class Route {
 public:
  explicit Route(const Pipeline& pipeline);
  int routes() const { return shape_ == Shape::both_ways ? 2 : 1; }
  int parts() const { return parts_; }
  int stages() const { return stages_; }
  bool shape_is_round() const { return shape_ == Shape::round_robin; }
  int chunks() const { return parts_ * routes() / stages_; }  // that a stage works on

  Place place(int route, int part) const;
  int route_of(Place place) const { return shape_ == Shape::both_ways ? place.chunk : 0; }
  int part_of(Place place) const;

 private:
  enum class Shape { round_robin, v, both_ways };
  Shape shape_;
  int stages_, parts_;
};

/// Times of one micro-batch through each part, and of handing its activation (or its gradient) on. None may be
/// negative.
struct PipelineTimes {
  int stages = 1;
  int chunks = 1;                          // of Pipeline
  std::vector<Seconds> forward, backward;  // stages * chunks, by part; backward whole
  Seconds send;  // between stages, either direction; blocks neither side's compute; nothing within a stage
  /// What of backward is the weight gradient, by part. May be empty for schedules that do not split backward.
  std::vector<Seconds> weight_gradient;
  /// A forward and a backward at once: [(stage * C + chunk of the forward) * C + chunk of the backward], where C is
  /// Route::chunks(). Empty: one after the other, nothing overlaps.
  std::vector<Seconds> pair;
};

/// Throws std::invalid_argument when the times are not of this pipeline.
void check(const Pipeline& pipeline, const PipelineTimes& times);

/// The order in which `stage` works through its tasks. Every micro-batch passes every part forward once and backward
/// once. In dualpipe the first half of the micro-batches goes the way of chunk 0, from the first stage, the second half
/// that of chunk 1, from the last. Throws std::invalid_argument for a greedy schedule. Sources:
///   gpipe        Huang 2019. The backwards take the micro-batches in the order of the forwards: all are alike, no time
///                or memory depends on it.
///   1f1b, interleaved  Narayanan 2021, with the warm-up of today's Megatron-Core: stage i of p runs
///                min(m V, 2 (p-1-i) + (V-1) p) chunk-forwards ahead. (Megatron's first releases ran every forward
///                before every backward when there were just p micro-batches; later ones dropped that case.)
///   zb-h1, zb-h2 Qi 2024, section 2. 1F1B with weight gradients i micro-batches behind on stage i; with twice as many
///                forwards ahead and 2 i behind.
///   dualpipe     DeepSeek-V3's report and the published schedule, https://github.com/deepseek-ai/DualPipe: eight
///                phases.
///   dualpipe-v   the same on half the stages, where the middle of the pipeline is folded onto the last.
Order stage_order(const Pipeline& pipeline, int stage);

/// What in_flight() finds for a stage of gpipe, 1f1b, interleaved, zb-h1 or zb-h2, at once, where all chunks keep the
/// same, until their weight gradients no more than until backward, and nothing is paired: the moment after the last
/// forward that is run ahead, with as many weight gradients open as can be then. (After it a gradient takes the place
/// of a forward, and what it leaves open is no more than what that kept.)
InFlight in_flight_of_alike(const Pipeline& pipeline, int stage);

/// The orders of all stages, of any schedule. Greedy ones (greedy.h) look at the times and at what each part keeps;
/// without `keeps`, each keeps as much until its weight gradient as until its input gradient, as
/// all other parts.
std::vector<Order> stage_orders(const Pipeline& pipeline, const PipelineTimes& times,
                                const std::vector<PassKeeps>& keeps = {});

}  // namespace shardwright
