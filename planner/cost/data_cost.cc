#include "planner/cost/data_cost.h"

#include <algorithm>
#include <cmath>

#include "planner/cost/collective_cost.h"

namespace shardwright {
namespace {

/// The ranks of a stage that hold the same weights, split by what zero shards.
struct DataGroups {
  RankGroup shard, replica, all;
  std::int64_t parts = 1;  // ranks of `shard`, or 1 without zero

  /// `taken`: ranks over which the weights are cut, from the inner end of the line tp, cp, dp; tp for dense weights,
  /// ep * etp for experts.
  DataGroups(const Layout& l, std::int64_t taken) {
    const std::int64_t between = l.rank_order == RankOrder::tp_cp_pp_dp ? l.pipeline : 1;
    const std::int64_t inner = std::int64_t{l.tensor} * l.context;
    const std::int64_t copies = std::max<std::int64_t>(1, inner / taken);  // inside tp x cp
    const std::int64_t folded = std::max<std::int64_t>(1, taken / inner);  // of dp
    const std::int64_t dense_shards = l.zero > 0 ? l.shard_group / l.context : l.data;
    const std::int64_t shards = std::max<std::int64_t>(1, dense_shards / folded);
    const std::int64_t stride = inner * between * folded;
    const auto as_size = [](std::int64_t n) { return static_cast<std::int32_t>(n); };
    shard.add(as_size(copies), taken);
    shard.add(as_size(shards), stride);
    replica.add(as_size(l.data / folded / shards), stride * shards);
    all.add(as_size(copies), taken);
    all.add(as_size(l.data / folded), stride);
    if (l.zero > 0) parts = copies * shards;
  }
};

DataGroups groups_of(const Layout& layout, bool routed) {
  return {layout, routed ? std::int64_t{layout.expert} * layout.expert_tensor : layout.tensor};
}

RankGroup joined(RankGroup inner, const RankGroup& outer) {
  for (int i = 0; i < outer.count; ++i) inner.add(outer.factors[i].size, outer.factors[i].stride);
  return inner;
}

/// Whether every micro-batch scatters its gradients, so that none are kept whole.
bool shards_gradients(const Layout& layout, const Engine& engine) {
  return layout.zero >= 2 && !(engine.reduces_once_in_pipelines && layout.pipeline > 1);
}

Bytes sized(std::int64_t elements, DataType format) {
  return {static_cast<std::int64_t>(std::ceil(static_cast<double>(elements) * bytes_per_element(format)))};
}

/// Calls `visit(spec, kernel, each)` for what is asked for each micro-batch, or once a step. `sharded` becomes the
/// elements of which a rank keeps the optimizer's state. Without `machine` only the bytes are found.
template <typename F>
DataCost cost_of(const GraphPrice& price, const Layout& layout, const Machine* machine, const TrainingFormats& formats,
                 bool without_tied, const Engine& engine, std::int64_t& sharded, const F& visit) {
  const DataGroups dense = groups_of(layout, false), routed = groups_of(layout, true);
  DataCost cost;
  const bool shards = shards_gradients(layout, engine);
  const BesideCompute beside = beside_compute(layout.overlap, layout.zero);
  const double exposed = engine.constants[EngineConstant::communication_factor];
  const double hidden = exposed * engine.constants[EngineConstant::hidden_communication_factor];
  const auto is_beside = [&](Seconds DataCost::*part) {
    if (part == &DataCost::backward) return beside.backward;
    return part == &DataCost::reduction ? beside.reduction : beside.forward;
  };
  const auto add = [&](Seconds DataCost::*part, CollectiveKind kind, Bytes held, const RankGroup& group) {
    if (!machine) return;
    const CollectiveSpec spec{kind, held, group};
    KernelCost c = collective_cost(spec, *machine);
    c.time = (is_beside(part) ? hidden : exposed) * c.time;
    cost.*part += c.time;
    visit(spec, c, part == &DataCost::forward || part == &DataCost::backward);
  };
  const auto lists = [&](const WeightBucket& b, const RankGroup& group) {
    const double tensors = engine.shards_in_lists ? static_cast<double>(group.size() * b.matrices) : 0;
    return tensors * engine.constants_of_its_host().seconds(EngineConstant::host_seconds_per_kernel);
  };
  std::int64_t elements = 0, gathered = 0;
  for (const WeightBucket& bucket : price.buckets) {
    WeightBucket b = bucket;
    if (without_tied && !b.routed && b.tensor_ranks.count == 0) {
      b.elements -= price.tied_elements;
      b.gathered_forward = std::min(b.gathered_forward, b.elements);
      b.gathered_backward = std::min(b.gathered_backward, b.elements);
    }
    if (b.elements == 0) continue;
    const DataGroups& groups = b.routed ? routed : dense;
    elements += b.elements;
    const std::int64_t part = (b.elements + groups.parts - 1) / groups.parts;
    sharded += part;
    const Bytes gradient = sized(b.elements, formats.gradient_reduce);
    if (layout.zero == 0) {
      add(&DataCost::reduction, CollectiveKind::all_reduce, gradient, joined(b.tensor_ranks, groups.all));
      continue;
    }
    add(shards ? &DataCost::backward : &DataCost::reduction, CollectiveKind::reduce_scatter, gradient, groups.shard);
    const Bytes shard = sized(part, formats.gradient_reduce);
    add(&DataCost::reduction, CollectiveKind::all_reduce, shard, joined(b.tensor_ranks, groups.replica));
    if (layout.zero < 3) {
      add(&DataCost::gather, CollectiveKind::all_gather, sized(b.elements, formats.parameter_gather), groups.shard);
    } else {
      add(&DataCost::forward, CollectiveKind::all_gather, sized(b.gathered_forward, formats.parameter_gather),
          groups.shard);
      add(&DataCost::backward, CollectiveKind::all_gather, sized(b.gathered_backward, formats.parameter_gather),
          groups.shard);
      if (b.gathered_forward > 0) cost.forward += lists(b, groups.shard);
      cost.backward += (b.gathered_backward > 0 ? 2 : 1) * lists(b, groups.shard);  // and of the reduce-scatter
      gathered += b.elements;
    }
  }
  const bool main_copy = formats.main_parameter != formats.parameter;
  cost.weights = sized(layout.zero == 3 ? sharded : elements, formats.parameter);
  cost.gradients = sized(shards ? sharded : elements, formats.gradient);
  cost.optimizer_state = 2 * sized(sharded, formats.optimizer_state);
  if (main_copy) cost.optimizer_state += sized(sharded, formats.main_parameter);
  if (shards) cost.buffer += sized(elements, formats.gradient_reduce);
  cost.buffer += sized(gathered, formats.parameter);
  // Adam reads the gradient, reads and writes both moments and the main parameter, writes the parameter.
  const Bytes streamed =
      sized(sharded, formats.gradient) + 2 * cost.optimizer_state + sized(sharded, formats.parameter);
  if (machine && elements > 0) {
    const double moved = static_cast<double>(streamed.value) * engine.optimizer_traffic();
    const MemorySpec pass{{static_cast<std::int64_t>(moved)},
                          engine.own_kernels ? MemoryPass::adam : MemoryPass::stream};
    const KernelCost optimizer = look_up(pass, *machine);
    cost.optimizer = optimizer.time;
    visit(pass, optimizer, false);
  }
  return cost;
}

}  // namespace

Seconds visible(Seconds moves, Seconds work, double multiprocessors) {
  const Seconds hidden = std::min(moves, work);
  return moves - hidden + multiprocessors / (1 - multiprocessors) * hidden;
}

BesideCompute beside_compute(Overlaps overlap, int zero) {
  const bool gathers = overlap.has(Overlap::param_gather), reduces = overlap.has(Overlap::grad_reduce);
  return {gathers, reduces && (zero < 3 || gathers), reduces};
}

std::int64_t zero_parts(const Layout& layout, bool routed) { return groups_of(layout, routed).parts; }

Bytes narrow_casts(std::int64_t elements, const Workload& workload) {
  const DataType compute = workload.formats.compute;
  if (!workload.memory.narrow_weights || bytes_per_element(compute) >= 2) return {};
  const bool stored_narrow = bytes_per_element(workload.formats.parameter) < 2;
  return (stored_narrow ? 1 : 2) * sized(elements, compute);
}

namespace {

DataCost cost_of(const GraphPrice& price, const Layout& layout, const Machine* machine, const Workload& workload,
                 bool without_tied, const Engine& engine) {
  const TrainingFormats& formats = workload.formats;
  std::int64_t sharded = 0;
  DataCost cost = cost_of(price, layout, machine, formats, without_tied, engine, sharded,
                          [](const auto&, const KernelCost&, bool) {});
  if (layout.zero < 3) cost.weights += narrow_casts(price.narrow_elements, workload);
  if (workload.memory.widens_gradients && bytes_per_element(formats.gradient) < 4)
    cost.widened = sized(sharded, DataType::fp32);
  return cost;
}

}  // namespace

DataCost data_cost(const GraphPrice& price, const Layout& layout, const Machine& machine, const Workload& workload,
                   bool without_tied, const Engine& engine) {
  return cost_of(price, layout, &machine, workload, without_tied, engine);
}

DataCost data_bytes(const GraphPrice& price, const Layout& layout, const Workload& workload, bool without_tied,
                    const Engine& engine) {
  return cost_of(price, layout, nullptr, workload, without_tied, engine);
}

AskedForData asked_for_data(const GraphPrice& price, const Layout& layout, const Machine& machine,
                            const TrainingFormats& formats, bool without_tied, const Engine& engine) {
  AskedForData asked;
  std::int64_t sharded = 0;
  cost_of(price, layout, &machine, formats, without_tied, engine, sharded,
          [&](const auto& spec, const KernelCost& kernel, bool each) {
            (each ? asked.each : asked.once).push_back({spec, kernel, 1});
          });
  return asked;
}

}  // namespace shardwright
