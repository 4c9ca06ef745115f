#pragma once

#include <vector>

#include "hardware/machine.h"
#include "models/transformer.h"
#include "planner/layout.h"
#include "planner/memory.h"
#include "planner/workload.h"

namespace shardwright {

/// What decides the local shapes of a graph, and so everything in it except how weights are kept in step.
struct Shape {
  int tensor = 1, context = 1, micro_batch = 1;
  bool sequence_parallel = false;
  ContextParallel context_kind = ContextParallel::all_gather;
  int expert = 1, expert_tensor = 1;
  Dispatcher dispatcher = Dispatcher::all_to_all;
  int between =
      1;  ///< pipeline stages that stand between neighbours of an expert group; 1 where the group stays inside tp x cp
  auto operator<=>(const Shape&) const = default;
};
Shape shape_of(const Layout& layout);

/// One micro-batch through one graph, for one choice of recomputation.
struct PassPrice {
  Seconds forward_compute, forward_communication, backward_compute, backward_communication;
  Seconds error;  ///< one sigma of the sum
  ActivationNeed need;
  Seconds forward() const { return forward_compute + forward_communication; }
  Seconds backward() const { return backward_compute + backward_communication; }
};

/// Weights whose gradients are reduced over the same axes, together: one bucket a graph.
struct WeightBucket {
  bool routed = false;        ///< experts: their copies are not those of the dense weights
  RankGroup tensor_ranks;     ///< gradients are partial over these ranks of tp too (norms under sequence parallelism)
  std::int64_t elements = 0;  ///< of one rank, whole on the shard axes
  std::int64_t gathered_forward = 0;   ///< elements that ZeRO-3 gathers for forward
  std::int64_t gathered_backward = 0;  ///< and for backward (weights that only their own gradient reads are not)
};

/// A graph at a shape.
struct GraphPrice {
  std::vector<PassPrice> passes;  ///< by index_of(Recompute), up to the last that was asked for
  std::vector<WeightBucket> buckets;
  std::int64_t tied_elements = 0;  ///< part of the buckets: the table that embedding and head share
  std::int64_t elements() const {
    std::int64_t n = 0;
    for (const WeightBucket& b : buckets) n += b.elements;
    return n;
  }
};

struct ShapePrice {
  GraphPrice embedding, head;
  std::vector<GraphPrice> layers;  ///< by layer class
  Bytes stream;                    ///< the residual stream of one rank: what a stage sends to the next
};

/// none, every set of the modules that a model's layers have, full. Of a mixture of experts, `moe` (which holds them)
/// or `moe_act`; `mlp` and `shared_experts` alone are left out there. Embedding and head are never recomputed.
std::vector<Recompute> recompute_choices(const Model& model);
/// Where a choice stands in PassPrice lists; none is 0.
int index_of(const Recompute& recompute);

/// Shards every graph at `shape` and prices it. Passes of other choices than `choices`
/// stay empty.
ShapePrice price_shape(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                       const Shape& shape, const std::vector<Recompute>& choices);

/// The head of price_shape alone.
GraphPrice price_head(const ModelGraphs& graphs, const Model& model, const Machine& machine, const Workload& workload,
                      const Shape& shape);

/// A layout that has this shape and every kind of data axis, to shard graphs once for all layouts of the shape: its
/// data parallelism is 2 replicas of 2 shards with ZeRO-3.
Layout sample_layout(const Shape& shape);

}  // namespace shardwright
