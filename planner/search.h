#pragma once

#include <vector>

#include "planner/plan.h"
#include "planner/pricer.h"

namespace shardwright {

/// The layouts that a request spans. A pinned key has its one value, else
///   tp, pp              every divisor of the GPUs whose product divides them (with cp); dp is the rest
///   cp                  1
///   vpp                 1, and where pp > 1 every number up to (layers + 2) / pp
///   schedule            1f1b for vpp 1, interleaved above (gpipe only when pinned)
///   sequence_parallel   both where tp > 1
///   micro_batch         every divisor of global_batch / dp
///   recompute           none, every set of modules, full
///   zero, fsdp_group    0; and where dp * cp > 1: 1 and 2 over all of it, 3 over every divisor above 1. A pinned group
///   above 1
///                       means 1, 2 and 3 over it; a group of 1, or dp * cp of 1, means 0
///   rank_order          tp-cp-dp-pp
///   layers              the balanced split (split.h)
/// Degrees that contradict a pin (vpp or interleaved without a pipeline, layers_per_stage of another size) are not part
/// of it. Layouts that turn out impossible are considered and rejected.
class Space {
 public:
  explicit Space(const PlanRequest& request);

  struct Degrees {
    int tensor, pipeline, context, data;
  };
  /// Every way to fill the GPUs.
  const std::vector<Degrees>& degrees() const { return degrees_; }
  std::vector<int> virtual_pipelines(const Degrees& d) const;
  std::vector<int> micro_batches(const Degrees& d) const;
  std::vector<bool> sequence_parallel(const Degrees& d) const;
  struct Sharding {
    int zero, group;
  };
  std::vector<Sharding> shardings(const Degrees& d) const;
  std::vector<Recompute> recomputes() const;
  Schedule schedule(int virtual_pipeline) const;
  RankOrder rank_order() const;
  const std::vector<int>* pinned_layers() const;

 private:
  const PlanRequest& request_;
  std::vector<Degrees> degrees_;
};

/// One search, in one precision. Two phases: every layout gets its memory and a lower bound of its time
/// (PipelineShape::lower_bound), on `threads` threads; then layouts are priced one by one in the order of that bound,
/// and those that can enter neither the top nor the Pareto front are pruned:
///   its bound is above the step time of the last of the top, and some priced layout needs no more memory and no more
///   than its bound in time.
/// The answer is the same with any number of threads.
inline constexpr std::size_t kNearest = 3;  ///< how many layouts are named when nothing fits
struct SearchAnswer {
  SearchSummary summary;
  std::vector<PricedLayout> top;     // best first; tokens/s, then the layout itself
  std::vector<PricedLayout> pareto;  // fastest first
  std::vector<PricedLayout>
      nearest;  // when nothing fits: least reserved memory first, then the layout; at most kNearest
};
SearchAnswer search(const PlanRequest& request, Pricer& pricer);

}  // namespace shardwright
