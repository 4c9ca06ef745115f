#include "planner/cost/data_cost.h"

#include <algorithm>
#include <cmath>

#include "planner/cost/collective_cost.h"

namespace shardwright {
namespace {

/// The ranks of a stage that hold the same part of the model, split by what zero shards.
struct DataGroups {
  RankGroup shard, replica, all;

  explicit DataGroups(const Layout& l) {
    const std::int64_t between = l.rank_order == RankOrder::tp_cp_pp_dp ? l.pipeline : 1;
    const std::int64_t stride = std::int64_t{l.tensor} * l.context * between;
    const int shards = l.zero > 0 ? l.shard_group / l.context : l.data;  // along dp
    shard.add(l.context, l.tensor);
    shard.add(shards, stride);
    replica.add(l.data / shards, stride * shards);
    all.add(l.context, l.tensor);
    all.add(l.data, stride);
  }
};

RankGroup joined(RankGroup inner, const RankGroup& outer) {
  for (int i = 0; i < outer.count; ++i) inner.add(outer.factors[i].size, outer.factors[i].stride);
  return inner;
}

Bytes sized(std::int64_t elements, DataType format) {
  return {static_cast<std::int64_t>(std::ceil(static_cast<double>(elements) * bytes_per_element(format)))};
}

}  // namespace

DataCost data_cost(const GraphPrice& price, const Layout& layout, const Machine& machine,
                   const TrainingFormats& formats, bool without_tied) {
  const DataGroups groups(layout);
  const std::int64_t parts = layout.zero > 0 ? layout.shard_group : 1;
  const auto seconds = [&](CollectiveKind kind, Bytes held, const RankGroup& group) {
    return collective_cost({kind, held, group}, machine).time;
  };
  DataCost cost;
  std::int64_t elements = 0, gathered = 0;
  for (const WeightBucket& bucket : price.buckets) {
    WeightBucket b = bucket;
    if (without_tied && b.tensor_ranks.count == 0) {
      b.elements -= price.tied_elements;
      b.gathered_forward = std::min(b.gathered_forward, b.elements);
      b.gathered_backward = std::min(b.gathered_backward, b.elements);
    }
    if (b.elements == 0) continue;
    elements += b.elements;
    const Bytes gradient = sized(b.elements, formats.gradient_reduce);
    if (layout.zero == 0) {
      cost.reduction += seconds(CollectiveKind::all_reduce, gradient, joined(b.tensor_ranks, groups.all));
      continue;
    }
    (layout.zero >= 2 ? cost.backward : cost.reduction) +=
        seconds(CollectiveKind::reduce_scatter, gradient, groups.shard);
    const Bytes shard = sized((b.elements + parts - 1) / parts, formats.gradient_reduce);
    cost.reduction += seconds(CollectiveKind::all_reduce, shard, joined(b.tensor_ranks, groups.replica));
    if (layout.zero < 3) {
      cost.gather += seconds(CollectiveKind::all_gather, sized(b.elements, formats.parameter_gather), groups.shard);
    } else {
      cost.forward +=
          seconds(CollectiveKind::all_gather, sized(b.gathered_forward, formats.parameter_gather), groups.shard);
      cost.backward +=
          seconds(CollectiveKind::all_gather, sized(b.gathered_backward, formats.parameter_gather), groups.shard);
      gathered += b.elements;
    }
  }
  const std::int64_t sharded = (elements + parts - 1) / parts;
  const bool main_copy = formats.main_parameter != formats.parameter;
  cost.weights = sized(layout.zero == 3 ? sharded : elements, formats.parameter);
  cost.gradients = sized(layout.zero >= 2 ? sharded : elements, formats.gradient);
  cost.optimizer_state = 2 * sized(sharded, formats.optimizer_state);
  if (main_copy) cost.optimizer_state += sized(sharded, formats.main_parameter);
  if (layout.zero >= 2) cost.buffer += sized(elements, formats.gradient_reduce);
  cost.buffer += sized(gathered, formats.parameter);
  // Adam reads the gradient, reads and writes both moments and the main parameter, writes the parameter.
  const Bytes streamed =
      sized(sharded, formats.gradient) + 2 * cost.optimizer_state + sized(sharded, formats.parameter);
  if (elements > 0) cost.optimizer = look_up(MemorySpec{streamed}, machine).time;
  return cost;
}

}  // namespace shardwright
