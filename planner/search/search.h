#pragma once

#include <optional>
#include <vector>

#include "planner/plan.h"
#include "planner/pricer.h"

namespace shardwright {

/// The layouts that a request spans. A pinned key has its one value, else of what the engine can run
///   tp, pp, cp          every divisor of the GPUs whose product divides them; dp is the rest
///   cp_kind             allgather, ulysses and ring where cp > 1
///   ep, etp             1; with experts every divisor of their number that divides tp * cp * dp / etp, and 1 or tp
///   dispatcher          alltoall or deepep, the faster (row_traffic.h): they differ in nothing else; of an engine
///                       that has neither, its first
///   vpp                 1, and where pp > 1 every number up to (layers + 2) / pp
///   schedule            gpipe, 1f1b, zb-h1 and zb-h2 for vpp 1 where pp > 1, interleaved for vpp above 1. Only pinned
///   or
///                       asked for besides (PlanRequest::more_schedules): zb-1p and zb-2p for vpp 1 and zb-v for vpp 2,
///                       whose orders and memory are found by plays of 2 to 200 ms each, with no bound on the memory
///                       below that; dualpipe for vpp 1 and dualpipe-v for vpp 2, of whose pairs the floors know only
///                       that they take no less than the longer of the two
///   overlap             the engine's default_overlaps; ep in dualpipe and dualpipe-v; the others only when pinned
///   sequence_parallel   both where tp > 1
///   micro_batch         every divisor of global_batch / dp
///   recompute           none, every set of modules, full
///   zero, fsdp_group    0; and where dp * cp > 1: 1 and 2 over all of it, 3 over every divisor above 1
///                       (pinned groups: above 1 they mean 1, 2 and 3 over it; 1, like dp * cp of 1, means 0)
///   rank_order          tp-cp-dp-pp, and tp-cp-pp-dp where they differ: dp > 1 and pp > 1
///   layers              the balanced split (split.h); where that does not fit, the first that does of the balanced
///                       splits with no more than k layers in a chunk, for each k from one less than there to what
///                       all of them hold evenly
/// `more_schedules` that the engine cannot run, or beside a pinned schedule, add nothing.
/// Degrees that contradict a pin (vpp or interleaved without a pipeline, layers_per_stage of another size) are not part
/// of it. Layouts that turn out impossible are considered and rejected.
class Space {
 public:
  explicit Space(const PlanRequest& request);

  struct Degrees {
    int tensor, pipeline, context, data, expert = 1, expert_tensor = 1;
    ContextParallel context_kind = ContextParallel::all_gather;
    Dispatcher dispatcher = Dispatcher::all_to_all;
    RankOrder rank_order = RankOrder::tp_cp_dp_pp;
    std::optional<Schedule> paired = {};  ///< one of pairs, besides: they change shapes
  };
  /// Every way to fill the GPUs.
  const std::vector<Degrees>& degrees() const { return degrees_; }
  /// A layout with these degrees; everything else has its default.
  Layout layout_at(const Degrees& d) const;
  std::vector<ContextParallel> context_kinds(int context) const;
  Dispatcher dispatcher(const Degrees& d) const;
  Overlaps overlaps(const Layout& l) const;
  std::vector<int> micro_batches(const Degrees& d) const;
  std::vector<bool> sequence_parallel(const Degrees& d) const;
  struct Sharding {
    int zero, group;
  };
  std::vector<Sharding> shardings(const Degrees& d) const;
  std::vector<Recompute> recomputes() const;
  struct Way {
    Schedule schedule;
    int virtual_pipeline;
  };
  /// Through the pipeline.
  std::vector<Way> ways(const Degrees& d) const;
  std::vector<RankOrder> rank_orders(const Degrees& d) const;
  const std::vector<int>* pinned_layers() const;

 private:
  std::vector<int> virtual_pipelines(const Degrees& d) const;
  std::vector<std::optional<Schedule>> paired(const Degrees& d) const;
  /// The one schedule that layouts with these degrees have, if it is given.
  std::optional<Schedule> only(const Degrees& d) const { return d.paired ? d.paired : request_.pins.schedule; }

  const PlanRequest& request_;
  std::vector<Degrees> degrees_;
};

/// One search, in one precision: the `top` fastest layouts, and the Pareto front of time and reserved memory among the
/// layouts that take no more than kFrontReach times the fastest.
///
/// Layouts whose local shapes differ in the micro-batch alone are a family, one unit of work: its graphs are derived
/// once and then sized for each micro-batch. A family has a time that none of its layouts can beat (Floor over
/// Pricer::least, found without a look at any micro-batch), and the families are worked through in that order, in
/// batches, each on `threads` threads. Before the first batch a few layouts of the first families are priced, so that
/// it can prune, too; they are counted when their family is worked through. Inside a family, floors of growing price
/// leave fewer and fewer layouts: from what no micro-batch falls below, with every recomputation, every zero and
/// fsdp_group and every number of chunks, by halves of these lists (LeastPrice); from the sums of the operators' times
/// at the micro-batch; from the prices there; from the split of the layers (PipelineShape). Every layout is one of
///   rejected  impossible, or proven not to fit
///   pruned    it can enter neither the top nor the front: a time that it cannot beat is above the step time of the
///             last of the top, and either above kFrontReach times the fastest, or some priced layout needs no more
///             memory and less than that time. Whether it fits is then left open: "memory" among the rejected counts
///             those that were seen not to fit.
///   priced    in full, in the order of PipelineShape::lower_bound
/// What a batch may prune is known before it starts, so the answer, its counts too, is the same with any number of
/// threads.
inline constexpr double kFrontReach = 2;
/// Of a front sorted by time, what kFrontReach leaves.
std::vector<PricedLayout> within_reach(std::vector<PricedLayout> front);
inline constexpr std::size_t kNearest = 3;  ///< how many layouts are named when nothing fits
struct SearchAnswer {
  SearchSummary summary;
  std::vector<PricedLayout> top;     // best first; tokens/s, then the layout itself
  std::vector<PricedLayout> pareto;  // fastest first
  std::vector<PricedPoint> priced;   // summary.priced of them, in the order in which they were
  std::vector<PricedLayout>
      nearest;  // when nothing fits: least reserved memory first, then the layout; at most kNearest
  /// As many as PlanRequest::rejected_examples of each reason. "memory" first: `nearest`, or, where anything fits,
  /// of the layouts whose splits were looked at (their floors fit) those with the least bound on their time, which may
  /// be faster than the best; then the impossible ones by reason, the first that are met, each with another detail.
  std::vector<PricedLayout> rejected;
};
SearchAnswer search(const PlanRequest& request, Pricer& pricer);

}  // namespace shardwright
